"""Half precision: overflow is detected at loading, and no request changes another request's picture."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file

from imagegen_core import GenerateRequest, ImagegenError, Job, LocalEngine, Settings
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.engine.faults import Gate, Watched

REFERENCE = {"prompt": "a lake", "seed": 1, "num_inference_steps": 2}
OVERFLOWING = {**REFERENCE, "guidance_scale": 1e30}


def _worker(folder: Path, dtype: Any = "fp16") -> Any:
    return DiffusersSDXLCudaWorker(settings=Settings(model=str(folder), device="cpu", dtype=dtype, recipe=False))


def _draw(worker: Any, fields: Any) -> bytes:
    png, _ = worker.run_job(Job(req=GenerateRequest(**fields)))
    return png  # type: ignore[no-any-return]


def _with_vae(checkpoint: Path, folder: Path, factor: float = 1.0) -> Path:
    """A checkpoint with `force_upcast` off in the VAE's config, and the decoder's first layer times `factor`."""
    shutil.copytree(checkpoint, folder)
    config = folder / "vae/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "force_upcast": False}))
    file = folder / "vae/diffusion_pytorch_model.safetensors"
    state = load(file.read_bytes())
    for name in ("decoder.conv_in.weight", "decoder.conv_in.bias"):
        state[name] = state[name] * factor
    save_file(state, file)
    return folder


@pytest.fixture(scope="module")
def checkpoint(sdxl_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that computes in fp16 throughout."""
    return _with_vae(sdxl_checkpoint, tmp_path_factory.mktemp("half") / "model")


def test_an_overflowing_vae_computes_in_fp32_from_loading_on(
    sdxl_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker = _worker(_with_vae(sdxl_checkpoint, tmp_path / "model", factor=1e5))
    (message,) = caplog.messages
    assert message.startswith("The VAE overflows in float16: it computes in fp32; set VAE_PATH")
    assert worker.pipe.vae.dtype == torch.float32
    assert _draw(worker, REFERENCE) == _draw(worker, REFERENCE)
    assert caplog.messages == [message]


def test_a_vae_that_does_not_overflow_stays_in_fp16(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert _worker(checkpoint).pipe.vae.dtype == torch.float16
    assert not caplog.messages


def test_only_an_overflowing_picture_is_decoded_in_fp32(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    worker = _worker(checkpoint)
    before = _draw(worker, REFERENCE)
    state = worker.begin(Job(req=GenerateRequest(**REFERENCE)))
    while state.steps_left:
        worker.step([state])
    state.latents = torch.randn_like(state.latents) * 1e4
    worker.finish(state)()
    assert caplog.messages == ["A picture overflows the VAE in float16: decoding it in fp32, which takes longer"]
    assert worker.pipe.vae.dtype == torch.float16
    assert _draw(worker, REFERENCE) == before


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_non_finite_latents_fail_only_their_own_request(
    checkpoint: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagegen_core.request.resolved.MAX_GUIDANCE", OVERFLOWING["guidance_scale"])
    worker = _worker(checkpoint, dtype)
    precisions = {name: parameter.dtype for name, parameter in worker.pipe.vae.named_parameters()}
    before = _draw(worker, REFERENCE)
    with pytest.raises(ImagegenError, match="not finite .*lower guidance_scale"):
        _draw(worker, OVERFLOWING)
    assert _draw(worker, REFERENCE) == before
    assert {name: parameter.dtype for name, parameter in worker.pipe.vae.named_parameters()} == precisions


def test_non_finite_latents_neither_prove_nor_refuse_a_batch_size(checkpoint: Path) -> None:
    gate, fields = Gate(), {**REFERENCE, "size": "64x48", "num_inference_steps": 4}
    watched = Watched(_worker(checkpoint, "fp32"))

    def break_latents(states: Any) -> None:
        for state in states:
            state.latents = state.latents * float("nan")

    with LocalEngine(watched) as engine:
        engine.submit(GenerateRequest(**fields)).result(60)  # the engine times a shape before requests share a pass
        watched.before = {"begin": gate, "step": break_latents, "trial": break_latents}
        gate.shut()
        broken = [engine.submit(GenerateRequest(**fields)) for _ in range(4)]
        gate.open()
        for ticket in broken:
            with pytest.raises(ImagegenError, match="not finite"):
                ticket.result(60)
        (batch_size,) = [size for group, size in engine._sizes._sizes.items() if "64x48" in str(group)]
    assert max(map(len, watched.batches)) > 1
    assert not batch_size.proven
    assert not batch_size.refused


def test_a_trial_compares_only_finite_latents(checkpoint: Path) -> None:
    worker = _worker(checkpoint, "fp32")

    def states(*broken: bool) -> list[Any]:
        new_states = [worker.begin(Job(req=GenerateRequest(**REFERENCE))) for _ in broken]
        for state, is_broken in zip(new_states, broken, strict=True):
            state.latents = state.latents * (float("nan") if is_broken else 1)
        return new_states

    mixed, hopeless = states(False, True), states(True, True)
    assert worker.trial(mixed) == worker.trial(states(False, False))
    assert [state.failure is None for state in mixed] == [True, False]
    assert not worker.trial(hopeless)
    assert all(state.failure is not None for state in hopeless)
