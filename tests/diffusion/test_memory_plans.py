"""How a model is kept in memory: offload changes no byte, and eight bits change a picture a little."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imagegen_core import Job, LoraUse, Settings, SettingsError
from imagegen_core.diffusion import model
from imagegen_core.diffusion.memory import weight_bytes
from imagegen_core.diffusion.stored_weights import Int8Weight
from imagegen_core.models.networks import storable
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.engine.conftest import ask
from tests.loras import as_kohya, random_lora, save

TEXTS = ("text_encoder", "text_encoder_2")
OFFLOADS = {
    "texts": {"offloaded": TEXTS},
    "texts and network": {"offloaded": (*TEXTS, "unet")},
    "everything": {"offloaded": (*TEXTS, "unet", "vae")},
    "streamed": {"offloaded": (*TEXTS, "vae"), "streamed": True},
}

Make = Callable[..., Any]


@pytest.fixture
def make(sdxl_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Load a worker with the given fields of its memory plan."""
    chosen = model.checkpoint_plan

    def load(plan: dict[str, Any] | None = None, **settings: Any) -> Any:
        monkeypatch.setattr(model, "checkpoint_plan", lambda *given: replace(chosen(*given), **(plan or {})))
        options = {"device": "cpu", "dtype": "fp32", "recipe": False, **settings}
        return DiffusersSDXLCudaWorker(settings=Settings(model=str(sdxl_checkpoint), **options))

    return load


@pytest.mark.parametrize("kind", OFFLOADS)
def test_offload_changes_no_byte(make: Make, kind: str, tmp_path: Path) -> None:
    plain, offloaded = make(), make(OFFLOADS[kind])
    lora = save(as_kohya(random_lora(make().pipe)), tmp_path / "lora.safetensors")
    styled = ask(negative_prompt="fog", guidance_scale=5.0).with_loras([LoraUse(lora, 0.7, "mine")])
    for request in (ask(), styled, ask("a hill")):
        assert offloaded.run_job(Job(req=request)) == plain.run_job(Job(req=request))
    begun = [worker.begin(Job(req=ask())) for worker in (plain, offloaded)]
    assert plain.preview(begun[0]) == offloaded.preview(begun[1])


def test_a_component_is_on_the_device_while_it_computes(make: Make) -> None:
    worker = make(OFFLOADS["everything"])
    residency = worker.residency
    state = worker.begin(Job(req=ask()))
    assert residency.present == {*TEXTS}
    worker.step([state])
    assert residency.present == {"unet"}
    worker.begin(Job(req=ask()))  # its prompt is cached
    assert residency.present == {"unet"}
    worker.finish(state)
    assert residency.present == {"vae"}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_eight_bits_change_a_picture_a_little(make: Make, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    monkeypatch.setattr(storable, "_LARGE", 256)
    plain, stored = make(dtype=dtype), make(dtype=dtype, weight_storage="int8")
    weights = [tensor for tensor in stored.network.parameters() if isinstance(tensor, Int8Weight)]
    assert len(weights) > 20
    assert not any(isinstance(tensor, Int8Weight) for tensor in stored.pipe.vae.parameters())
    assert weight_bytes(stored.pipe) < 0.8 * weight_bytes(plain.pipe)
    assert (plain.numerics.storage, stored.numerics.storage) == ("full", "int8")
    assert replace(plain.numerics, storage="int8", tiles_above=None) == replace(stored.numerics, tiles_above=None)
    pictures = [_pixels(worker.run_job(Job(req=ask()))[0]) for worker in (plain, stored)]
    difference = np.abs(pictures[0] - pictures[1])
    assert 0 < difference.mean() < 3


def test_a_lora_of_decomposed_weights_draws_with_offloaded_and_stored_layers(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(storable, "_LARGE", 256)
    pipe = make().pipe
    state = as_kohya(random_lora(pipe))
    for name in [name for name in state if name.endswith("lora_up.weight")]:
        state[name.replace("lora_up.weight", "dora_scale")] = torch.rand(len(state[name]), 1)
    lora = LoraUse(save(state, tmp_path / "dora.safetensors"), 0.7, "mine")
    for plan in ({}, {"storage": "int8"}):
        plain, streamed = make(plan), make({**OFFLOADS["streamed"], **plan})
        jobs = [Job(req=request) for request in (ask(), ask().with_loras([lora]))]
        drawn = [[worker.run_job(job)[0] for job in jobs] for worker in (plain, streamed)]
        assert drawn[0] == drawn[1]
        assert drawn[0][0] != drawn[0][1]


def test_a_compiled_network_cannot_be_moved(make: Make) -> None:
    with pytest.raises(SettingsError, match=r"^compile compiles the unet, which this device's memory of [\d.]+ GB"):
        make(OFFLOADS["streamed"], compile=True)


def test_an_unloaded_model_frees_its_memory(make: Make) -> None:
    worker = make(OFFLOADS["everything"])
    worker.run_job(Job(req=ask()))
    network = weakref.ref(worker.network)
    gc.disable()
    try:
        del worker
        assert network() is None
    finally:
        gc.enable()


def test_pictures_share_passes_with_stored_weights(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storable, "_LARGE", 256)
    worker = make({"storage": "int8"})
    jobs = [Job(req=ask(seed=seed, num_inference_steps=2)) for seed in range(3)]
    alone = [worker.run_job(job)[0] for job in jobs]
    states = [worker.begin(job) for job in jobs]
    for _ in range(2):
        assert worker.trial(states[:2])
        worker.step(states[2:])
    assert [worker.finish(state)().png for state in states] == alone


@pytest.mark.cuda
@pytest.mark.parametrize("kind", OFFLOADS)
def test_offload_changes_no_byte_on_a_gpu(make: Make, kind: str) -> None:
    pictures = [make(plan, device="cuda:0", dtype="fp16").run_job(Job(req=ask())) for plan in (None, OFFLOADS[kind])]
    assert pictures[0] == pictures[1]


@pytest.mark.cuda
def test_an_offloaded_component_leaves_the_gpu(make: Make) -> None:
    worker = make(OFFLOADS["everything"], device="cuda:0", dtype="fp16")
    worker.step([worker.begin(Job(req=ask()))])
    places = {name: next(getattr(worker.pipe, name).parameters()).device.type for name in (*TEXTS, "unet", "vae")}
    assert places == dict.fromkeys((*TEXTS, "vae"), "cpu") | {"unet": "cuda"}


def _pixels(png: bytes) -> Any:
    return np.asarray(Image.open(BytesIO(png))).astype(int)
