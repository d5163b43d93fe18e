"""Checkpoints with 9 and 8 channels load from single files and from folders of their own pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import save_file

from imagegen_core import Job, Picture, Settings
from imagegen_core.diffusion import canvas
from imagegen_sd15 import DiffusersCudaWorker
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.diffusion.test_architectures import SD_BLOCKS, SDXL_BLOCKS, _pipeline, _state
from tests.pictures_in.conftest import ask, difference, mask, picture, pixels

BLOCKS: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "sd15": (SD_BLOCKS, DiffusersCudaWorker, diffusers.StableDiffusionInpaintPipeline),
    "sdxl": (SDXL_BLOCKS, DiffusersSDXLCudaWorker, diffusers.StableDiffusionXLInpaintPipeline),
}


def saved(plain: Any, state: dict[str, torch.Tensor], form: str, folder: Path) -> Settings:
    """Save a pipeline as a folder, or as a file beside a folder with its configs, and return settings for it."""
    plain.save_pretrained(folder / "model")
    settings = Settings(model=str(folder / "model"), device="cpu", dtype="fp32")
    if form == "folder":
        return settings
    save_file(state, folder / "model.safetensors")
    return settings.override(model=str(folder / "model.safetensors"), base_model=str(folder / "model"))


@pytest.mark.parametrize("form", ["file", "folder"])
@pytest.mark.parametrize("family", BLOCKS)
def test_an_inpainting_checkpoint_draws_as_its_pipeline(
    family: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks, worker_class, pipeline_class = BLOCKS[family]
    monkeypatch.setattr(canvas.Canvas, "pasted", lambda _self, drawn: drawn)
    base = _pipeline(family, {**blocks, "in_channels": 9}, tmp_path)
    more = {"requires_safety_checker": False} if family == "sd15" else {"add_watermarker": False}
    plain = pipeline_class(**base.components, **more)
    worker = worker_class(settings=saved(plain, _state(family, base), form, tmp_path))
    plain.scheduler = diffusers.EulerDiscreteScheduler.from_config(worker.pipe.scheduler.config)
    plain.set_progress_bar_config(disable=True)
    fields: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 3.0, "strength": 0.9}
    expected = plain(
        "a lake at dawn",
        image=picture(),
        mask_image=mask(),
        width=64,
        height=48,
        generator=torch.Generator("cpu").manual_seed(7),
        **fields,
    ).images[0]
    job = Job(req=ask(image=picture(), mask=mask(), scheduler="Euler", **fields))
    drawn = Picture(*worker.run_job_with_latents(job)).image
    assert difference(pixels(drawn), pixels(expected)) <= 1


@pytest.mark.parametrize("form", ["file", "folder"])
def test_an_editing_checkpoint_loads(form: str, tmp_path: Path) -> None:
    base = _pipeline("sd15", {**SD_BLOCKS, "in_channels": 8}, tmp_path)
    parts = {**base.components, "image_encoder": None}
    plain = diffusers.StableDiffusionInstructPix2PixPipeline(**parts, requires_safety_checker=False)
    worker = DiffusersCudaWorker(settings=saved(plain, _state("sd15", base), form, tmp_path))
    job = Job(req=ask(image=picture(), guidance_scale=3.0, image_guidance_scale=2.0))
    assert Picture(*worker.run_job_with_latents(job)).size == (64, 48)
