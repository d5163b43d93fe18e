"""The VAE's precision and layout: by the settings, shown in the plan, and replayed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import pytest
import torch

from imagegen_core import GenerateRequest, Job, Settings, read_recipe
from imagegen_core.diffusion import vae_setup
from imagegen_core.replay import settings_of
from imagegen_sd15 import DiffusersCudaWorker
from imagegen_sdxl import DiffusersSDXLCudaWorker

CLASSES = {"sdxl": DiffusersSDXLCudaWorker, "sd15": DiffusersCudaWorker}
PIPELINES = {"sdxl": diffusers.StableDiffusionXLPipeline, "sd15": diffusers.StableDiffusionPipeline}
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
FIELDS: dict[str, Any] = {"prompt": "a lake", "seed": 4, "num_inference_steps": 2, "size": "64x64"}

Folder = Callable[[str], Path]


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Folder:
    return lambda family: request.getfixturevalue(f"{family}_checkpoint")  # type: ignore[no-any-return]


def _worker(family: str, path: Path, dtype: str, **options: Any) -> Any:
    return CLASSES[family](settings=Settings(model=str(path), device="cpu", dtype=dtype, **options))


def _pixels(worker: Any) -> npt.NDArray[np.int_]:
    state = worker.begin(Job(req=GenerateRequest(**FIELDS)))
    while state.steps_left:
        worker.step([state])
    return np.asarray(worker.finish(state)().image).astype(int)


def _plain_pixels(family: str, path: Path, vae_dtype: str) -> npt.NDArray[np.int_]:
    """Draw with the plain pipeline in fp32, and decode with its VAE in another precision, with channels last."""
    left_out = {} if family == "sdxl" else {"safety_checker": None, "feature_extractor": None}
    pipe = PIPELINES[family].from_pretrained(path, local_files_only=True, **left_out)
    pipe.scheduler = diffusers.LCMScheduler.from_config(pipe.scheduler.config)
    latents = pipe(
        FIELDS["prompt"],
        num_inference_steps=2,
        guidance_scale=1.0,
        width=64,
        height=64,
        generator=torch.Generator("cpu").manual_seed(4),
        output_type="latent",
    ).images
    vae = pipe.vae.to(DTYPES[vae_dtype]).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        decoded = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor).sample
    return np.asarray(pipe.image_processor.postprocess(decoded)[0]).astype(int)


@pytest.mark.parametrize("family", CLASSES)
@pytest.mark.parametrize("vae_dtype", ["bf16", "fp32"])
def test_a_picture_is_that_of_the_plain_pipeline_with_its_vae_converted(
    family: str, vae_dtype: str, folder: Folder
) -> None:
    worker = _worker(family, folder(family), "fp32", vae_dtype=vae_dtype)
    assert worker.numerics.vae_precision == vae_dtype
    assert np.abs(_pixels(worker) - _plain_pixels(family, folder(family), vae_dtype)).max() <= 1


def test_the_precision_changes_the_picture_a_little(sdxl_checkpoint: Path) -> None:
    fine, coarse = (_pixels(_worker("sdxl", sdxl_checkpoint, "fp32", vae_dtype=name)) for name in ("fp32", "bf16"))
    assert 0 < np.abs(fine - coarse).max() < 16


@pytest.mark.parametrize(
    ("dtype", "vae_dtype", "computes"), [("fp16", None, "fp32"), ("fp16", "bf16", "bf16"), ("bf16", None, "bf16")]
)
def test_only_a_setting_outranks_the_config(
    sdxl_checkpoint: Path, dtype: str, vae_dtype: str | None, computes: str
) -> None:
    """The checkpoint's config sets `force_upcast`."""
    worker = _worker("sdxl", sdxl_checkpoint, dtype, vae_dtype=vae_dtype)
    assert worker.numerics.vae_precision == computes
    assert {parameter.dtype for parameter in worker.pipe.vae.parameters()} == {DTYPES[computes]}


def test_an_overflowing_vae_stays_in_the_precision_that_a_setting_asks_for(
    sdxl_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(vae_setup, "overflows", lambda _: True)
    settings = Settings.load(
        environ={"IMAGEGEN_VAE_DTYPE": "fp16"}, model=str(sdxl_checkpoint), device="cpu", dtype="fp16"
    )
    worker = DiffusersSDXLCudaWorker(settings=settings)
    assert worker.numerics.vae_precision == "fp16"
    (message,) = caplog.messages
    assert message.startswith("The VAE overflows in float16, as IMAGEGEN_VAE_DTYPE=fp16 asks")


@pytest.mark.parametrize(
    ("device", "setting", "expected"),
    [("cpu", None, True), ("mps", None, False), ("cuda", True, True), ("cpu", False, False)],
)
def test_the_layout_follows_from_the_device_and_the_settings(device: str, setting: bool | None, expected: bool) -> None:
    assert vae_setup.is_channels_last(torch.device(device), Settings(vae_channels_last=setting)) == expected


def test_the_plan_and_a_replay_have_the_layout_and_the_precision(sdxl_checkpoint: Path) -> None:
    worker = _worker("sdxl", sdxl_checkpoint, "fp32", vae_dtype="bf16", vae_channels_last=False)
    assert worker.numerics.layout == "contiguous"
    assert worker.pipe.vae.decoder.conv_in.weight.is_contiguous()
    png, _ = worker.run_job(Job(req=GenerateRequest(**FIELDS)))
    again = settings_of(read_recipe(png), Settings(model=str(sdxl_checkpoint), device="cpu"))
    assert (again.vae_dtype, again.vae_channels_last) == ("bf16", False)
    assert DiffusersSDXLCudaWorker(settings=again).run_job(Job(req=GenerateRequest(**FIELDS)))[0] == png
