"""The numerics plan: it follows from the device, the model and the settings alone, and differences have names."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imagegen_core import HasNumerics, Job, NumericsPlan, OutOfMemoryError, Settings, SettingsError, Size, read_recipe
from imagegen_core.diffusion import memory
from imagegen_core.diffusion.memory_planning import device_budget
from imagegen_core.engine import LocalEngine, Pool
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.engine.conftest import ask

# torch warns about its own modules when it prepares to compile.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::UserWarning:torch")

GIB = 2**30
PLAN = NumericsPlan("cuda", "fp16", rows=4, tile=512, tiles_above=1024 * 1024)

MakeWorker = Callable[..., Any]


@pytest.fixture
def make(sdxl_checkpoint: Path) -> MakeWorker:
    return lambda **options: DiffusersSDXLCudaWorker(
        settings=Settings(model=str(sdxl_checkpoint), device="cpu", dtype="fp32", **options)
    )


def _have(monkeypatch: pytest.MonkeyPatch, *, total: float, available: float) -> None:
    machine = SimpleNamespace(total=int(total * GIB), available=int(available * GIB))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    monkeypatch.setattr("imagegen_core.resources.memory.memory_limit", lambda *_: None)


@pytest.mark.parametrize(
    ("size", "tile"),
    [
        ("512x512", None),
        ("1024x1024", None),
        ("1024x1032", 512),
    ],
)
def test_tiles_follow_from_the_size(size: str, tile: int | None) -> None:
    assert PLAN.tile_of(Size.parse(size)) == tile
    facts = PLAN.of_picture(Size.parse(size))
    assert (facts["rows"], facts["tile"]) == (4, tile)


def test_a_plan_without_limits_treats_all_sizes_alike() -> None:
    plan = NumericsPlan("cpu", "fp32", rows=2, tile=512)
    assert {plan.tile_of(Size(side, side)) for side in (8, 8192)} == {None}


def test_differences_are_named() -> None:
    other = replace(PLAN, rows=None, versions={"torch": "2.11"}, flags={"tf32_convolutions": True})
    assert PLAN.differences(other) == [
        "rows was 4, and is None",
        "tf32 convolutions was None, and is True",
        "torch was None, and is 2.11",
    ]
    assert not PLAN.differences(replace(PLAN))


def test_a_worker_has_a_plan_that_is_json(make: MakeWorker) -> None:
    worker = make()
    assert isinstance(worker, HasNumerics)
    plan = worker.numerics
    assert NumericsPlan(**json.loads(json.dumps(asdict(plan)))) == plan
    assert (plan.device, plan.precision, plan.vae_precision) == ("cpu", "fp32", "fp32")
    assert (plan.rows, plan.attention, plan.compiled, plan.batching) == (None, "sdpa", False, "exact")
    assert plan.threads == torch.get_num_threads()
    assert {"imagegen-core", "torch", "diffusers", "transformers"} <= set(plan.versions)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ({"attention_slicing": True}, {"attention": "sliced"}),
        ({"rows_per_pass": 4}, {"rows": 4}),
        ({"rows_per_pass": 1}, {"rows": None}),
        ({"vae_tiling": True}, {"tiles_above": 0}),
        ({"vae_tiling": False}, {"tiles_above": None}),
        ({"batching": "fast"}, {"batching": "fast", "exact": False}),
        ({"compile": True}, {"compiled": True, "exact": False}),
    ],
    ids=str,
)
def test_settings_change_the_plan(make: MakeWorker, option: dict[str, Any], expected: dict[str, Any]) -> None:
    plan = asdict(make(**option).numerics)
    assert plan | expected == plan


@given(free=st.floats(0.01, 64), other=st.floats(0.01, 64))
def test_free_memory_does_not_change_the_tiles(free: float, other: float, demo_pipe: Any) -> None:
    limits = []
    with pytest.MonkeyPatch.context() as patch:
        for available in (free, other):
            _have(patch, total=64, available=available)
            limits.append(memory.whole_pixels(demo_pipe.vae, _room() - 7 * GIB))
    assert limits[0] == limits[1] > 0


@pytest.fixture(scope="module")
def demo_pipe() -> Any:
    """The parts of a released VAE that the estimates read, in fp32."""
    decoder = torch.nn.Linear(1, 1)
    return SimpleNamespace(
        vae=SimpleNamespace(config=SimpleNamespace(block_out_channels=(128, 256, 512, 512)), decoder=decoder)
    )


@pytest.mark.parametrize(("total", "largest"), [(8, 512 * 512), (16, 6 * 512 * 512), (0.5, 0)])
def test_tiles_follow_from_the_total_memory(
    demo_pipe: Any, monkeypatch: pytest.MonkeyPatch, total: float, largest: int
) -> None:
    _have(monkeypatch, total=total, available=1)
    assert memory.whole_pixels(demo_pipe.vae, _room() - int(3.5e9)) == largest


def _room() -> int:
    return device_budget(torch.device("cpu"), Settings()).room


def test_a_picture_has_the_same_bytes_with_any_free_memory(make: MakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(req=ask(size="640x640", num_inference_steps=1))
    worker = make()
    drawn = worker.run_job(job)
    assert read_recipe(drawn[0]).numerics["tile"] is None
    needed = memory.decoding_bytes(worker.decoder, Size(640, 640))
    monkeypatch.setattr(memory, "free_bytes", lambda _: needed + 1)
    assert worker.run_job(job) == drawn
    monkeypatch.setattr(memory, "free_bytes", lambda _: needed - 1)
    with pytest.raises(
        OutOfMemoryError, match=r"^Decoding a picture of 640x640 takes about [\d.]+ GB of memory, and cpu"
    ):
        worker.run_job(job)


def test_free_memory_decides_how_many_rows_share_a_pass_and_no_byte(
    make: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, drawn = make(recipe=False), []
    for rows in (1, 8):
        monkeypatch.setattr("imagegen_core.diffusion.worker.rows_that_fit", lambda *_, rows=rows: rows)
        with LocalEngine(worker) as engine:
            tickets = [engine.submit(ask(seed=seed, num_inference_steps=3)) for seed in range(4)]
            drawn.append([ticket.result(60) for ticket in tickets])
            assert max(engine.report().steps) <= rows
    assert drawn[0] == drawn[1]


def test_tiles_draw_nearly_the_same_picture_and_need_less_memory(
    make: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(req=ask(size="640x520", num_inference_steps=1))
    whole, tiled = make(recipe=False), make(recipe=False, vae_tiling=True)
    pictures = []
    for worker in (whole, tiled):
        state = worker.begin(job)
        worker.step([state])
        pictures.append(np.asarray(worker.finish(state)().image).astype(int))
    assert not np.array_equal(*pictures)
    assert np.abs(pictures[0] - pictures[1]).mean() < 3
    assert not tiled.pipe.vae.use_tiling
    monkeypatch.setattr(memory, "free_bytes", lambda _: memory.decoding_bytes(tiled.decoder, Size(512, 512)))
    tiled.run_job(job)


def test_copies_with_different_plans_are_refused(make: MakeWorker) -> None:
    workers = [make(), make(attention_slicing=True)]
    with pytest.raises(
        SettingsError, match="^Copy 1 of the model would draw other bytes than copy 0, because attention"
    ):
        Pool(workers)
    Pool([make(batching="fast"), make(batching="fast", attention_slicing=True)], batching="fast").close()
