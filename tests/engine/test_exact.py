"""A picture's bytes do not depend on other requests."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imagegen_core import GenerateRequest, Job, LocalEngine, Picture, Settings, StyleLoraRequest
from imagegen_sd15 import DiffusersCudaWorker
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.checkpoints import save_sd15
from tests.engine.conftest import StartEngine, ask
from tests.engine.faults import Watched
from tests.loras import as_kohya, random_lora, save
from tests.repetitions import FACTOR

CLASSES = {"sdxl": DiffusersSDXLCudaWorker, "sd15": DiffusersCudaWorker}


@pytest.fixture(scope="module", params=[(family, dtype) for family in CLASSES for dtype in ("fp32", "bf16")])
def drawing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An engine whose worker has two styles, and a function that draws a request without an engine."""
    family, dtype = request.param
    checkpoint = request.getfixturevalue(f"{family}_checkpoint")
    root = tmp_path_factory.mktemp("styles")
    options = {"model": str(checkpoint), "device": "cpu", "dtype": dtype, "recipe": False, "lora_root": root}
    for seed, name in enumerate(("ink", "wash")):
        save(
            as_kohya(random_lora(CLASSES[family](settings=Settings(**options)).pipe, seed)),
            root / f"{name}.safetensors",
        )
    alone, worker = (CLASSES[family](settings=Settings(**options)) for _ in range(2))

    @cache
    def solo(request_json: str) -> Picture:
        return Picture(*alone.run_job_with_latents(Job(req=GenerateRequest.model_validate_json(request_json))))

    engine = LocalEngine(worker)
    yield engine, lambda request: solo(request.model_dump_json(exclude_unset=True))
    engine.close(drain=False)


@dataclass(frozen=True)
class Arrival:
    """A request, its delay after the previous request, and the time until it is cancelled, in milliseconds."""

    request: GenerateRequest
    after: int
    cancelled_after: int | None


REQUESTS = st.builds(
    ask,
    prompt=st.sampled_from(["a lake", "a red star", "a lake " * 60, ""]),
    size=st.sampled_from(["64x64", "64x96", "128x128"]),
    num_inference_steps=st.integers(1, 6),
    guidance_scale=st.sampled_from([1.0, 1.0, 4.0, 7.5]),
    seed=st.integers(0, 5),
    scheduler=st.sampled_from([None, None, "Euler a", "DPM++ 2M Exponential", "DDIM SGM Uniform"]),
    guidance_rescale=st.sampled_from([0.0, 0.0, 0.7]),
    style_lora=st.sampled_from(
        [StyleLoraRequest()] * 3 + [StyleLoraRequest(style="ink", level=2), StyleLoraRequest(style="wash", level=3)]
    ),
)
ARRIVALS = st.builds(Arrival, REQUESTS, st.integers(0, 30), st.one_of(st.none(), st.none(), st.integers(0, 60)))


@settings(max_examples=25 * FACTOR)
@given(mix=st.lists(ARRIVALS, min_size=1, max_size=12))
def test_every_picture_of_a_mix_equals_the_picture_drawn_alone(drawing: Any, mix: Sequence[Arrival]) -> None:
    engine, solo = drawing
    tickets, timers = [], []
    for arrival in mix:
        threading.Event().wait(arrival.after / 1000)
        ticket = engine.submit(arrival.request)
        tickets.append(ticket)
        if arrival.cancelled_after is not None:
            timers.append(threading.Timer(arrival.cancelled_after / 1000, ticket.cancel))
            timers[-1].start()
    for timer in timers:
        timer.join()
    pictures = {index: ticket.result(120) for index, ticket in enumerate(tickets) if not ticket.job.fut.cancelled()}
    for index, picture in pictures.items():
        assert picture == solo(mix[index].request), mix[index].request
    assert all(arrival.cancelled_after is not None for index, arrival in enumerate(mix) if index not in pictures)


def test_simultaneous_requests_share_forward_passes(worker: Any, start: StartEngine) -> None:
    watched = Watched(worker)
    engine = start(watched)
    tickets = [engine.submit(ask(seed=seed, num_inference_steps=20, size="128x128")) for seed in range(8)]
    for ticket in tickets:
        ticket.result(60)
    assert max(map(len, watched.batches)) > 1


def test_requests_share_a_pass_across_steps_guidance_and_samplers(worker: Any) -> None:
    requests = [
        ask(num_inference_steps=2),
        ask(num_inference_steps=5, guidance_scale=4.0),
        ask(num_inference_steps=3, scheduler="Euler a", schedule="SGM Uniform"),
        ask(num_inference_steps=2, scheduler="DDIM", eta=0.5, guidance_scale=4.0, guidance_rescale=0.7),
        ask(num_inference_steps=4, scheduler="Euler", s_churn=2.0, s_noise=1.01),
    ]
    states = [worker.begin(Job(req=request)) for request in requests]
    assert len({worker.group(state) for state in states}) == 1
    assert len({worker.group(worker.begin(Job(req=ask(size=size)))) for size in ("64x64", "64x96")}) == 2


def _draw(worker: Any, request: GenerateRequest) -> Picture:
    return Picture(*worker.run_job_with_latents(Job(req=request)))


class Biased:
    """A network whose results depend on the number of rows, as on some devices."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.rows: list[int] = []

    def __call__(self, sample: torch.Tensor, *inputs: Any, **options: Any) -> Any:
        self.rows.append(len(sample))
        (prediction,) = self.network(sample, *inputs, **options)
        return (prediction + 1e-3 * len(sample),)


def _biased(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Any, Biased]:
    worker = DiffusersSDXLCudaWorker(
        settings=Settings(model=str(checkpoint), device="cpu", dtype="fp32", recipe=False, **options)
    )
    network = Biased(worker.pipe.unet.forward)
    monkeypatch.setattr(worker.pipe.unet, "forward", network)
    return worker, network


REQUESTS_OF_BOTH_KINDS = [
    ask(seed=seed, num_inference_steps=8, guidance_scale=1.0 + 3.0 * (seed % 3 == 2)) for seed in range(6)
]


def test_filled_passes_give_the_same_bytes_alone_and_together(
    sdxl_checkpoint: Path, start: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, _ = _biased(sdxl_checkpoint, monkeypatch, rows_per_pass=4)
    pictures = [_draw(alone, request) for request in REQUESTS_OF_BOTH_KINDS]
    worker, network = _biased(sdxl_checkpoint, monkeypatch, rows_per_pass=4)
    watched = Watched(worker)
    engine = start(watched)
    tickets = [engine.submit(request) for request in REQUESTS_OF_BOTH_KINDS]
    assert [ticket.result(60) for ticket in tickets] == pictures
    assert max(map(len, watched.batches)) > 1
    assert set(network.rows) == {4}
    engine.close()
    assert [_draw(worker, request) for request in REQUESTS_OF_BOTH_KINDS] == pictures


def test_pictures_are_drawn_one_at_a_time_if_results_depend_on_the_number_of_rows(
    sdxl_checkpoint: Path, start: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, network = _biased(sdxl_checkpoint, monkeypatch)
    pictures = [_draw(worker, request) for request in REQUESTS_OF_BOTH_KINDS]
    engine = start(worker)
    assert engine.report().because == "results depend on the number of rows here, so pictures are drawn one at a time"
    network.rows.clear()
    tickets = [engine.submit(request) for request in REQUESTS_OF_BOTH_KINDS]
    assert [ticket.result(60) for ticket in tickets] == pictures
    assert set(network.rows) == {1, 2}


FOUR_LEVELS: dict[str, Any] = {
    "block_out_channels": (32, 64, 64, 64),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}


@pytest.mark.parametrize(
    ("dtype", "rows"), [("fp32", 1), ("bf16", None)], ids=["results depend on rows", "requests share passes"]
)
def test_an_engine_changes_no_byte_of_its_worker(
    tmp_path: Path, start: StartEngine, dtype: Any, rows: int | None
) -> None:
    """With four levels, 64x64 pixels are one token in the middle, and a row's results in fp32 depend on the others."""
    checkpoint = save_sd15(tmp_path / "tiny-sd15", **FOUR_LEVELS)
    worker = DiffusersCudaWorker(settings=Settings(model=str(checkpoint), device="cpu", dtype=dtype))
    requests = [ask(seed=seed, num_inference_steps=4, size=size) for seed in range(4) for size in ("64x64", "128x64")]
    before = [_draw(worker, wanted) for wanted in requests]
    engine = start(worker)
    if rows is not None:
        assert engine.report().groups[0].rows == rows
    tickets = [engine.submit(wanted) for wanted in requests]
    assert [ticket.result(60) for ticket in tickets] == before
    engine.close()
    assert [_draw(worker, wanted) for wanted in requests] == before


def test_fast_batching_runs_no_trials(worker: Any, start: StartEngine) -> None:
    watched = Watched(worker)

    def never(*_: Any) -> None:
        raise AssertionError("fast batching ran a trial")

    watched.before["trial"] = never
    engine = start(watched, batching="fast")
    assert "unproven" in engine.report().because
    for ticket in [engine.submit(ask(seed=seed, num_inference_steps=8)) for seed in range(6)]:
        ticket.result(60)


def test_rows_are_equal_at_every_batch_size(sdxl_checkpoint: Path) -> None:
    worker = DiffusersSDXLCudaWorker(
        settings=Settings(model=str(sdxl_checkpoint), device="cpu", dtype="fp32", recipe=False)
    )
    for size in ("128x128", "256x128"):
        for count in (2, 3, 5, 8):
            states = [worker.begin(Job(req=ask(seed=seed, size=size))) for seed in range(count)]
            assert worker.trial(states), (size, count)
