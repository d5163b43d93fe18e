"""Tiny checkpoints with their workers and plain pipelines, and pictures to draw from."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from imagegen_core import GenerateRequest, Job, Picture, Settings
from imagegen_core.diffusion import canvas
from imagegen_sd15 import DiffusersCudaWorker
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.checkpoints import save_sd15, save_sdxl

FAMILIES: dict[str, tuple[Callable[..., Path], Any]] = {
    "sd15": (save_sd15, DiffusersCudaWorker),
    "sdxl": (save_sdxl, DiffusersSDXLCudaWorker),
}
SAMPLERS = ["LCM", "Euler", "Euler a", "DPM++ 2M", "DPM++ 2M SDE", "DPM++ SDE", "Heun", "DDIM", "PLMS", "UniPC"]
_PIPELINES = {"sd15": "StableDiffusion{}Pipeline", "sdxl": "StableDiffusionXL{}Pipeline"}
_SAFETY = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


@dataclass(frozen=True)
class Pair:
    """A worker, and the plain pipelines of the same checkpoint."""

    family: str
    folder: Path
    worker: Any
    plain: Callable[[str], Any]

    def draw(self, **fields: Any) -> np.ndarray[Any, Any]:
        """Draw with the worker, and return the pixels."""
        return pixels(self.picture(**fields).image)

    def picture(self, **fields: Any) -> Picture:
        """Draw with the worker."""
        return self.drawn(ask(**fields))

    def drawn(self, request: GenerateRequest) -> Picture:
        """Draw a request with the worker."""
        return Picture(*self.worker.run_job_with_latents(Job(req=request)))

    def expected(self, kind: str, sampler: str, **arguments: Any) -> np.ndarray[Any, Any]:
        """Draw with a plain pipeline of a kind, such as ``Img2Img``, and a sampler of the worker's."""
        pipe = self.plain(kind)
        schedulers = self.worker._schedulers
        pipe.scheduler = copy.deepcopy(schedulers._prototype(*schedulers._find(sampler, None)).scheduler)
        generator = torch.Generator("cpu").manual_seed(arguments.pop("seed", 7))
        return pixels(pipe("a lake at dawn", generator=generator, **arguments).images[0])


@cache
def picture(width: int = 64, height: int = 48, seed: int = 3) -> Image.Image:
    """Return a picture of smooth colours with details."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@cache
def mask(width: int = 64, height: int = 48) -> Image.Image:
    """Return a mask with a white box that is not on the latents' grid."""
    image = Image.new("L", (width, height), 0)
    image.paste(255, (width // 3, height // 4, width - 9, height - 5))
    return image


def ask(**fields: Any) -> GenerateRequest:
    """Build a request."""
    return GenerateRequest.given(**{"prompt": "a lake at dawn", "seed": 7, **fields})


def pixels(image: Image.Image) -> np.ndarray[Any, Any]:
    """Return an image's pixels."""
    return np.asarray(image)


def difference(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> int:
    """Return the largest difference of two pictures, in levels of 255."""
    assert first.shape == second.shape
    return int(np.abs(first.astype(int) - second.astype(int)).max())


def make_pair(family: str, folder: Path, *, dtype: str = "fp32", **unet: Any) -> Pair:
    """Save a tiny checkpoint, and load it with the worker and with plain pipelines."""
    save, worker_class = FAMILIES[family]
    checkpoint = save(folder / f"tiny-{family}", **unet)

    @cache
    def plain(kind: str) -> Any:
        pipeline = getattr(diffusers, _PIPELINES[family].format(kind))
        more = _SAFETY if family == "sd15" else {"add_watermarker": False}
        if family == "sd15" and kind == "InstructPix2Pix":
            pipeline = diffusers.StableDiffusionInstructPix2PixPipeline
        pipe = pipeline.from_pretrained(checkpoint, local_files_only=True, **more)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    worker = worker_class(settings=Settings(model=str(checkpoint), device="cpu", dtype=dtype))
    return Pair(family, checkpoint, worker, plain)


@pytest.fixture(scope="session", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """An ordinary checkpoint of each family, in fp32."""
    return make_pair(request.param, tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session", params=FAMILIES)
def inpainter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A checkpoint with 9 channels of each family, in fp32."""
    return make_pair(request.param, tmp_path_factory.mktemp("inpainting"), in_channels=9)


@pytest.fixture(scope="session", params=FAMILIES)
def editor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """An instruct-pix2pix checkpoint of each family, in fp32."""
    return make_pair(request.param, tmp_path_factory.mktemp("editing"), in_channels=8)


@pytest.fixture
def unpasted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the drawn pixels as the VAE decodes them, as diffusers does."""
    monkeypatch.setattr(canvas.Canvas, "pasted", lambda _self, drawn: drawn)
