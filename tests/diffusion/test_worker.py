"""The contract of both workers."""

from __future__ import annotations

import io
import logging
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from imagegen_core import (
    GenerateRequest,
    InvalidRequestError,
    Job,
    ModelLoadError,
    ModelNotFoundError,
    Settings,
    SettingsError,
    StepDone,
    StyleLoraRequest,
    Worker,
)
from imagegen_sd15 import DiffusersCudaWorker
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.repetitions import FACTOR

CLASSES = {"sdxl": DiffusersSDXLCudaWorker, "sd15": DiffusersCudaWorker}


@pytest.fixture(scope="module", params=CLASSES)
def worker(request: pytest.FixtureRequest) -> Any:
    folder = request.getfixturevalue(f"{request.param}_checkpoint")
    return CLASSES[request.param](
        worker_id=3, settings=Settings(model=str(folder), device="cpu", dtype="fp32", recipe=False)
    )


def _job(**fields: Any) -> Job:
    return Job(req=GenerateRequest(**{"prompt": "a lake", "seed": 1, **fields}))


def _opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png))


def test_a_worker_has_the_attributes_of_the_contract(worker: Any) -> None:
    assert isinstance(worker, Worker)
    assert worker.worker_id == 3
    assert (worker.device, worker.dtype) == (torch.device("cpu"), torch.float32)
    assert worker.pipe.text_encoder is not None
    assert worker.pipe.unet.dtype == worker.pipe.vae.dtype == torch.float32
    assert hasattr(worker.pipe, "text_encoder_2") == isinstance(worker, DiffusersSDXLCudaWorker)


def test_a_job_returns_a_png_and_its_seed(worker: Any) -> None:
    png, seed = worker.run_job(_job(size="64x40", seed=9))
    picture = _opened(png)
    assert (picture.format, picture.mode, picture.size, seed) == ("PNG", "RGB", (64, 40), 9)


def test_both_ways_to_run_a_job_give_the_same_picture(worker: Any) -> None:
    png, seed = worker.run_job(_job())
    again, seed_again, latents = worker.run_job_with_latents(_job())
    assert (png, seed) == (again, seed_again)
    assert len(latents) == 512
    assert np.isfinite(np.frombuffer(latents, "<f2")).all()


def test_the_latents_need_no_second_pass(worker: Any) -> None:
    calls = []
    hook = worker.pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    try:
        worker.run_job_with_latents(_job(num_inference_steps=3))
    finally:
        hook.remove()
    assert len(calls) == 3


def test_a_seed_draws_the_same_picture_after_other_jobs(worker: Any) -> None:
    first = worker.run_job(_job(seed=4))
    torch.manual_seed(99)
    worker.run_job(_job(seed=5, prompt="another", guidance_scale=3.0))
    assert worker.run_job(_job(seed=4)) == first
    assert worker.run_job(_job(seed=5))[0] != first[0]


def test_a_missing_seed_is_chosen_at_random_and_returned(worker: Any) -> None:
    png, seed = worker.run_job(_job(seed=None))
    other_png, other_seed = worker.run_job(_job(seed=None))
    assert (png, seed) != (other_png, other_seed)
    assert worker.run_job(_job(seed=seed))[0] == png


def test_a_missing_size_is_the_checkpoints_native_size(worker: Any) -> None:
    assert worker.native_size == "64x64"
    assert _opened(worker.run_job(_job())[0]).size == (64, 64)


def test_any_object_with_the_attributes_is_a_job_or_request(worker: Any) -> None:
    request = SimpleNamespace(
        prompt="a lake", size="64x64", num_inference_steps=4, guidance_scale=1.0, seed=1, style_lora=None
    )
    assert worker.run_job(SimpleNamespace(req=request)) == worker.run_job(_job(size="64x64"))


def test_the_prompt_and_the_negative_prompt_change_the_picture(worker: Any) -> None:
    plain = worker.run_job(_job(guidance_scale=5.0))
    assert worker.run_job(_job(guidance_scale=5.0, prompt="a star")) != plain
    assert worker.run_job(_job(guidance_scale=5.0, negative_prompt="dark")) != plain


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"size": "12by7"}, "Invalid size '12by7': expected WIDTHxHEIGHT"),
        ({"num_inference_steps": 0}, "Invalid num_inference_steps 0"),
        ({"num_inference_steps": 51}, "Invalid num_inference_steps 51: the LCM scheduler takes 1 to 50"),
        ({"guidance_scale": -1.0}, "Invalid guidance_scale"),
        ({"seed": -1}, "Invalid seed"),
        ({"style_lora": StyleLoraRequest(style="papercut", level=1)}, "Unknown style 'papercut'"),
    ],
)
def test_an_invalid_request_is_refused_and_the_next_request_is_drawn(
    worker: Any, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        worker.run_job(_job(**fields))
    assert worker.run_job(_job())[1] == 1


def test_each_step_is_reported(worker: Any) -> None:
    reports: list[StepDone] = []
    job = _job(num_inference_steps=3)
    job.on_step = reports.append
    worker.run_job(job)
    assert reports == [StepDone(1, 3), StepDone(2, 3), StepDone(3, 3)]


def test_jobs_from_several_threads_do_not_mix(worker: Any) -> None:
    alone = {seed: worker.run_job(_job(seed=seed)) for seed in range(4)}
    together: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: together.update({seed: worker.run_job(_job(seed=seed))}))
        for seed in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_states_of_several_requests_can_be_stepped_together(worker: Any) -> None:
    jobs = [
        _job(seed=1, num_inference_steps=2),
        _job(seed=2, num_inference_steps=5, guidance_scale=4.0),
        _job(seed=3, num_inference_steps=3, prompt="a star"),
    ]
    states = [worker.begin(job) for job in jobs]
    while waiting := [state for state in states if state.steps_left]:
        worker.step(waiting)
    for job, state in zip(jobs, states, strict=True):
        alone = np.asarray(_opened(worker.run_job(job)[0]), int)
        assert np.abs(np.asarray(worker.finish(state)().image, int) - alone).max() <= 1


@settings(max_examples=15 * FACTOR, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    width=st.integers(1, 12),
    height=st.integers(1, 12),
    steps=st.integers(1, 4),
    guidance=st.floats(0, 10),
    seed=st.integers(0, 2**63 - 1),
    prompt=st.text(max_size=100),
)
def test_every_valid_request_draws_the_same_picture_again(
    worker: Any, width: int, height: int, steps: int, guidance: float, seed: int, prompt: str
) -> None:
    job = _job(
        prompt=prompt,
        size=f"{8 * width}x{8 * height}",
        num_inference_steps=steps,
        guidance_scale=guidance,
        seed=seed,
    )
    drawn = worker.run_job_with_latents(job)
    assert _opened(drawn[0]).size == (8 * width, 8 * height)
    assert drawn[1] == seed
    assert len(drawn[2]) == 512
    assert worker.run_job_with_latents(job) == drawn


def test_a_negative_prompt_without_effect_logs_a_warning(worker: Any, caplog: pytest.LogCaptureFixture) -> None:
    worker.run_job(_job(guidance_scale=1.5, negative_prompt="dark"))
    worker.run_job(_job(negative_prompt=""))
    assert not caplog.records
    worker.run_job(_job(negative_prompt="dark"))
    assert caplog.messages == ["The negative prompt has no effect: it needs a guidance scale above 1.0"]


@pytest.mark.parametrize("family", CLASSES)
@pytest.mark.parametrize("own", [True, False])
def test_the_environment_configures_the_worker(
    family: str, own: bool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder: Path = request.getfixturevalue(f"{family}_checkpoint")
    prefix = f"{family.upper()}_" if own else ""
    monkeypatch.setenv(f"{prefix}MODEL_ROOT", str(folder.parent))
    monkeypatch.setenv(f"{prefix}MODEL", folder.name)
    monkeypatch.setenv("CUDA_DEVICE", "cpu")
    monkeypatch.setenv("CUDA_DTYPE", "bf16")
    worker = CLASSES[family](worker_id=0)
    assert worker.checkpoint == folder
    assert (worker.device.type, worker.dtype) == ("cpu", torch.bfloat16)
    assert worker.run_job(_job())[1] == 1


def test_the_error_for_the_other_familys_checkpoint_names_its_worker(
    sdxl_checkpoint: Path, sd15_checkpoint: Path
) -> None:
    with pytest.raises(
        ModelLoadError, match=r"sdxl.*imagegen_sdxl\.worker\.DiffusersSDXLCudaWorker.*IMAGEGEN_BACKEND=sdxl"
    ):
        DiffusersCudaWorker(settings=Settings(model=str(sdxl_checkpoint)))
    with pytest.raises(
        ModelLoadError, match=r"sd15.*imagegen_sd15\.worker\.DiffusersCudaWorker.*IMAGEGEN_BACKEND=sd15"
    ):
        DiffusersSDXLCudaWorker(settings=Settings(model=str(sd15_checkpoint)))


def test_the_error_for_the_other_familys_checkpoint_names_its_package(
    sdxl_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEGEN_PLUGINS_DISABLED", "sdxl,diffusers")
    words = "imagegen-sdxl is installed, and disabled: IMAGEGEN_PLUGINS_DISABLED names it"
    with pytest.raises(ModelLoadError, match=words):
        DiffusersCudaWorker(settings=Settings(model=str(sdxl_checkpoint)))


def test_the_error_for_a_missing_checkpoint_names_the_variables() -> None:
    with pytest.raises(
        ModelNotFoundError, match="No checkpoint is configured for backend 'sd15': set SD15_MODEL or MODEL"
    ):
        DiffusersCudaWorker(settings=Settings())


def test_attention_slicing_draws_the_same_picture(worker: Any) -> None:
    settings = Settings(model=str(worker.checkpoint), device="cpu", dtype="fp32", attention_slicing=True)
    sliced = type(worker)(settings=settings)
    assert type(sliced.pipe.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn1.processor) is not type(
        worker.pipe.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn1.processor
    )
    difference = np.asarray(_opened(sliced.run_job(_job())[0]), int) - np.asarray(
        _opened(worker.run_job(_job())[0]), int
    )
    assert np.abs(difference).max() <= 1


def test_missing_xformers_is_an_error(sdxl_checkpoint: Path) -> None:
    settings = Settings(model=str(sdxl_checkpoint), device="cpu", enable_xformers=True)
    with pytest.raises(SettingsError, match="asks for xformers, which cannot be used here"):
        DiffusersSDXLCudaWorker(settings=settings)


def test_loading_logs_and_prints_nothing(
    sdxl_checkpoint: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.WARNING):
        DiffusersSDXLCudaWorker(settings=Settings(model=str(sdxl_checkpoint), device="cpu"))
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


@pytest.mark.cuda
@pytest.mark.parametrize("family", CLASSES)
def test_a_worker_draws_in_half_precision_on_cuda(family: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(f"{family}_checkpoint")
    worker = CLASSES[family](settings=Settings(model=str(folder)))
    assert (worker.device, worker.dtype) == (torch.device("cuda:0"), torch.float16)
    assert worker.run_job(_job()) == worker.run_job(_job())
