"""Denoising extensions of third parties."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

from imagegen_core import ExtensionDef
from imagegen_core.diffusion import Denoising, Extension, LoadedModel, NetworkInputs


def control_picture(seed: int) -> Tensor:
    """Return a random control picture [1, 3, 64, 64] in 0..1."""
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


class ControlNet(Extension):
    """Steers requests for something "controlled" by a ControlNet next to the checkpoint."""

    name = "controlnet"

    def __init__(self, model: LoadedModel) -> None:
        super().__init__(model)
        folder = Path(str(model.settings.model)).with_name("controlnet")
        self._network = diffusers.ControlNetModel.from_pretrained(folder, local_files_only=True)

    def begin(self, state: Denoising) -> Tensor | None:
        return control_picture(state.request.seed) if "controlled" in state.request.prompt else None

    def group(self, part: Any) -> str:
        return "canny"

    def before_network(self, inputs: NetworkInputs) -> None:
        down, middle = self._network(
            inputs.latents,
            inputs.timesteps,
            encoder_hidden_states=inputs.conditioning.tokens,
            controlnet_cond=torch.cat([state.parts[self] for state in inputs.states]),
            return_dict=False,
        )
        inputs.options |= {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}


class Faded(Extension):
    """Halves the latents of "faded" requests after each step, and the guided prediction of "weak" requests."""

    name = "faded"
    order = 200

    def begin(self, state: Denoising) -> str | None:
        return next((word for word in ("faded", "weak", "faulty") if word in state.request.prompt), None)

    def combine(self, state: Denoising, part: str, prediction: Tensor) -> Tensor:
        assert len(prediction) == 1
        return prediction / 2 if part == "weak" else prediction

    def after_step(self, state: Denoising, part: str) -> None:
        if part == "faulty":
            raise RuntimeError("a fault")
        if part == "faded":
            state.latents = state.latents / 2


class Inexact(Extension):
    """Takes part in "inexact" requests, whose rows may depend on each other."""

    name = "inexact"
    exact = False

    def begin(self, state: Denoising) -> bool | None:
        return True if "inexact" in state.request.prompt else None


class Broken(Extension):
    """Cannot be made."""

    def __init__(self, model: LoadedModel) -> None:
        raise ValueError("no weights")


def extension(name: str, **options: Any) -> ExtensionDef:
    """Return the description of one of these extensions."""
    return ExtensionDef(name.lower(), "a test's", f"tests.diffusion.extensions:{name}", **options)
