"""Stable Diffusion 3 and FLUX.1 draw from pictures and masks as the plain pipelines do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from imagegen_core import Job, Picture, Settings
from imagegen_core.diffusion import canvas
from imagegen_flux import FluxWorker
from imagegen_sd3 import StableDiffusion3Worker
from tests.checkpoints import save_flux, save_sd3
from tests.pictures_in.conftest import ask, difference, mask, picture, pixels

FAMILIES: dict[str, tuple[Callable[..., Path], Any, str]] = {
    "sd3": (save_sd3, StableDiffusion3Worker, "StableDiffusion3{}Pipeline"),
    "flux": (save_flux, FluxWorker, "Flux{}Pipeline"),
}


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, str]:
    save, worker_class, pipeline = FAMILIES[request.param]
    folder = save(tmp_path_factory.mktemp(request.param) / "tiny")
    return folder, worker_class(settings=Settings(model=str(folder), device="cpu", dtype="fp32")), pipeline


def expected(folder: Path, pipeline: str, **arguments: Any) -> Any:
    pipe = getattr(diffusers, pipeline).from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(7)
    arguments = {"generator": generator, "width": 64, "height": 48, **arguments}
    if pipeline != "StableDiffusion3InpaintPipeline":
        return pixels(pipe("a lake at dawn", **arguments).images[0])
    latents = pipe("a lake at dawn", output_type="latent", **arguments).images  # it decodes without the VAE's shift
    config = pipe.vae.config
    decoded = pipe.vae.decode(latents / config.scaling_factor + config.shift_factor).sample.detach()
    return pixels(pipe.image_processor.postprocess(decoded)[0])


def draw(worker: Any, **fields: Any) -> Any:
    return pixels(Picture(*worker.run_job_with_latents(Job(req=ask(**fields)))).image)


@pytest.mark.parametrize("strength", [0.3, 0.6, 1.0])
def test_images_equal_the_plain_pipelines(checkpoint: tuple[Path, Any, str], strength: float) -> None:
    folder, worker, pipeline = checkpoint
    arguments: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 3.0, "strength": strength}
    plain = expected(folder, pipeline.format("Img2Img"), image=picture(64, 48), **arguments)
    assert difference(draw(worker, image=picture(64, 48), **arguments), plain) <= 1


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_masks_equal_the_plain_pipelines(
    checkpoint: tuple[Path, Any, str], strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, worker, pipeline = checkpoint
    monkeypatch.setattr(canvas.Canvas, "pasted", lambda _self, drawn: drawn)
    arguments: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 3.0, "strength": strength}
    plain = expected(folder, pipeline.format("Inpaint"), image=picture(), mask_image=mask(), **arguments)
    assert difference(draw(worker, image=picture(), mask=mask(), **arguments), plain) <= 1
