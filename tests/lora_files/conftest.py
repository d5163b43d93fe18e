"""A worker and the plain pipeline of each family, to compare their pictures."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from imagegen_core import GenerateRequest, Job, Picture, Settings
from imagegen_core.styles import LoraUse
from imagegen_sd15 import DiffusersCudaWorker
from imagegen_sdxl import DiffusersSDXLCudaWorker

_FAMILIES = {
    "sdxl": (DiffusersSDXLCudaWorker, "StableDiffusionXLPipeline"),
    "sd15": (DiffusersCudaWorker, "StableDiffusionPipeline"),
}
_STEPS = 2


@dataclass
class Family:
    """A family's checkpoint, with our worker and plain diffusers.

    Attributes:
        name: The family's name.
        checkpoint: A diffusers-format folder.
        worker: The worker with this checkpoint.
        plain: The plain pipeline; never changed.
        bare: The worker's picture without any LoRA.
    """

    name: str
    checkpoint: Path
    worker: Any
    plain: Any
    bare: Picture

    def pipe(self) -> Any:
        """Copy the plain pipeline, so that a test can change it."""
        changed = copy.copy(self.plain)
        for network in ("unet", "text_encoder", "text_encoder_2"):
            if getattr(self.plain, network, None) is not None:
                setattr(changed, network, copy.deepcopy(getattr(self.plain, network)))
        return changed

    def draw(self, *loras: tuple[Path, float] | Path, **fields: Any) -> Picture:
        """Draw with LoRAs, each at its strength or at 1."""
        used = [LoraUse(*((lora, 1.0) if isinstance(lora, Path) else lora), "tried") for lora in loras]
        request = GenerateRequest(**{"prompt": "a lake", "seed": 1, "num_inference_steps": _STEPS, **fields})
        return Picture(*self.worker.run_job_with_latents(Job(req=request.with_loras(used))))

    def assert_draws(self, path: Path, changed: Any, strength: float = 1.0, prompt: str = "a lake") -> None:
        """Check that a LoRA's picture equals a changed plain pipeline's, and that the LoRA leaves no trace."""
        expected = plain_picture(changed, prompt)
        drawn = pixels(self.draw((path, strength), prompt=prompt).image)
        assert np.abs(drawn - expected).max() <= 1
        assert np.abs(expected - pixels(self.bare.image)).max() > 2, "the LoRA changes almost nothing"
        assert self.draw() == self.bare


@pytest.fixture(scope="package", params=_FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    worker_class, pipeline_class = _FAMILIES[request.param]
    checkpoint = request.getfixturevalue(f"{request.param}_checkpoint")
    plain = getattr(diffusers, pipeline_class).from_pretrained(checkpoint, local_files_only=True)
    plain.scheduler = diffusers.LCMScheduler.from_config(plain.scheduler.config)
    plain.set_progress_bar_config(disable=True)
    settings = Settings(model=str(checkpoint), device="cpu", dtype="fp32", recipe=False)
    result = Family(request.param, checkpoint, worker_class(settings=settings), plain, bare=None)  # type: ignore[arg-type]
    result.bare = result.draw()
    return result


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """A function to write a safetensors file."""

    def write(state: dict[str, torch.Tensor], name: str = "lora", metadata: dict[str, str] | None = None) -> Path:
        path = tmp_path / f"{name}.safetensors"
        save_file({key: tensor.clone().contiguous() for key, tensor in state.items()}, path, metadata=metadata)
        return path

    return write


def plain_picture(pipe: Any, prompt: str = "a lake") -> npt.NDArray[np.int_]:
    """The picture of plain diffusers for the request of `Family.draw`."""
    generator = torch.Generator().manual_seed(1)
    size = {"width": 64, "height": 64}
    drawn = pipe(prompt, num_inference_steps=_STEPS, guidance_scale=1.0, generator=generator, **size).images[0]
    return pixels(drawn)


def pixels(image: Image.Image) -> npt.NDArray[np.int_]:
    return np.asarray(image.convert("RGB"), int)
