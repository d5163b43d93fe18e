"""The worker draws the plain diffusers pipeline's picture from the same checkpoint, seed, prompt and options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from imagegen_core import Settings, Worker, generate
from imagegen_sd15 import DiffusersCudaWorker
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.checkpoints import save_sd15, save_sdxl

FAMILIES: dict[str, Any] = {
    "sdxl": (save_sdxl, DiffusersSDXLCudaWorker, diffusers.StableDiffusionXLPipeline, {}),
    "sd15": (save_sd15, DiffusersCudaWorker, diffusers.StableDiffusionPipeline, {}),
    "sdxl-guidance-embedding": (
        save_sdxl,
        DiffusersSDXLCudaWorker,
        diffusers.StableDiffusionXLPipeline,
        {"time_cond_proj_dim": 16},
    ),
    "sd15-guidance-embedding": (
        save_sd15,
        DiffusersCudaWorker,
        diffusers.StableDiffusionPipeline,
        {"time_cond_proj_dim": 17},
    ),
}


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Worker, Any]:
    """Our worker and the plain pipeline on one checkpoint, both in fp32 on the CPU."""
    save, worker_class, pipeline_class, unet = FAMILIES[request.param]
    folder: Path = save(tmp_path_factory.mktemp(request.param) / "checkpoint", **unet)
    plain = pipeline_class.from_pretrained(folder, local_files_only=True)
    plain.scheduler = diffusers.LCMScheduler.from_config(plain.scheduler.config)
    plain.set_progress_bar_config(disable=True)
    settings = Settings(model=str(folder), device="cpu", dtype="fp32")
    return worker_class(settings=settings), plain


REQUESTS: dict[str, dict[str, Any]] = {
    "guidance 1.0": {"guidance_scale": 1.0},
    "one step": {"guidance_scale": 1.0, "num_inference_steps": 1},
    "classifier-free guidance": {"guidance_scale": 7.5},
    "with a negative prompt": {"guidance_scale": 4.0, "negative_prompt": "blurry, ugly"},
    "with an empty negative prompt": {"guidance_scale": 4.0, "negative_prompt": ""},
    "guidance below 1": {"guidance_scale": 0.5},
    "not square": {"guidance_scale": 2.0, "width": 96, "height": 40, "num_inference_steps": 7},
}


@pytest.mark.parametrize("fields", REQUESTS.values(), ids=REQUESTS)
def test_pictures_equal_the_plain_pipelines(pair: tuple[Worker, Any], fields: dict[str, Any]) -> None:
    worker, plain = pair
    fields = {"num_inference_steps": 4, "width": 64, "height": 64, **fields}
    expected = plain("a lake at dawn", generator=torch.Generator("cpu").manual_seed(11), **fields).images[0]

    size = f"{fields.pop('width')}x{fields.pop('height')}"
    drawn = generate("a lake at dawn", worker=worker, seed=11, size=size, **fields).image

    assert drawn.size == expected.size
    assert _largest_difference(drawn, expected) <= 1


def test_the_comparison_can_fail(pair: tuple[Worker, Any]) -> None:
    worker, _ = pair
    first, second = (generate("a lake at dawn", worker=worker, seed=seed).image for seed in (11, 12))
    assert _largest_difference(first, second) > 1


def test_latents_equal_the_plain_pipelines(pair: tuple[Worker, Any]) -> None:
    worker, plain = pair
    final = plain(
        "a lake at dawn",
        generator=torch.Generator("cpu").manual_seed(5),
        num_inference_steps=4,
        guidance_scale=1.0,
        width=96,
        height=80,
        output_type="latent",
    ).images
    expected = torch.nn.functional.adaptive_avg_pool2d(final, 8).half().numpy()

    latents = generate("a lake at dawn", worker=worker, seed=5, size="96x80").latents

    drawn = np.frombuffer(latents, "<f2").reshape(1, 4, 8, 8)
    np.testing.assert_allclose(drawn, expected, atol=2e-3)


def _largest_difference(first: Image.Image, second: Image.Image) -> int:
    return int(np.abs(np.asarray(first, int) - np.asarray(second, int)).max())
