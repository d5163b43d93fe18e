"""The state of a request's picture before its first step, and what of it the steps need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from imagegen_core.diffusion.canvas import Canvas


@dataclass(frozen=True, slots=True)
class Painting:
    """The parts of a picture that are not drawn.

    Attributes:
        mask: 1 for latents that are drawn, else 0, [1, 1, height / 8, width / 8].
        original: The original's latents without noise, in the network's scale.
        noise: The noise that the drawing began with, of the same shape.
    """

    mask: Tensor
    original: Tensor
    noise: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> Painting:
        """Return these parts on a device, in a precision."""
        return Painting(*(part.to(device, dtype) for part in (self.mask, self.original, self.noise)))

    def blended(self, scheduler: Any, latents: Tensor, timestep: Tensor | None) -> Tensor:
        """Return latents with the original around the mask, as noisy as at the timestep; None is without noise."""
        original = self.original if timestep is None else noised(scheduler, self.original, self.noise, timestep)
        return (1 - self.mask) * original + self.mask * latents


@dataclass(frozen=True, slots=True)
class StartingPoint:
    """The beginning of a drawing.

    Attributes:
        latents: Noisy latents, as the scheduler's first step expects them.
        first: The index of the first timestep; 0 draws all steps.
        canvas: The prepared input picture, if there is one.
        painting: The parts that are not drawn, for a network that takes latents alone.
        channels: Further channels for the network, [rows or 1, channels, height / 8, width / 8].
    """

    latents: Tensor
    first: int = 0
    canvas: Canvas | None = None
    painting: Painting | None = None
    channels: Tensor | None = None


def first_step(steps: int, strength: float, *, rounds_up: bool = False) -> int:
    """Return the number of steps to leave out for a strength; at least one step is drawn.

    diffusers' pipelines of UNets round the number of drawn steps down. Those of flow matching round it up.

    Args:
        steps: The number of steps.
        strength: The part to draw, from 0 to 1.
        rounds_up: Whether a part of a step counts as a step.
    """
    drawn = min(steps * strength, steps)
    left_out = int(max(steps - drawn, 0)) if rounds_up else steps - int(drawn)
    return min(left_out, steps - 1)


def noised(scheduler: Any, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """Return latents with noise of the timestep, as the scheduler adds it."""
    timesteps = timestep.reshape(1)
    if hasattr(scheduler, "scale_noise"):  # of flow matching
        return scheduler.scale_noise(latents, timesteps, noise)  # type: ignore[no-any-return]
    return scheduler.add_noise(latents, noise, timesteps)  # type: ignore[no-any-return]


def skip_steps(scheduler: Any, count: int) -> int:
    """Let the scheduler begin after `count` steps, and return the index of the first timestep."""
    first = count * int(getattr(scheduler, "order", 1))
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    return first


def enlarged(latents: Tensor, shape: Sequence[int], mode: str = "bilinear", *, antialias: bool = False) -> Tensor:
    """Return latents at another size [..., height, width], as A1111's upscalers ``Latent`` do.

    Args:
        latents: The latents.
        shape: A shape that ends with the new height and width.
        mode: The mode of ``torch.nn.functional.interpolate``.
        antialias: Whether it smooths before it shrinks.
    """
    larger = torch.nn.functional.interpolate(latents.float(), size=tuple(shape[-2:]), mode=mode, antialias=antialias)
    return larger.to(latents.dtype)


def shrunk_mask(mask: Tensor, latents: torch.Size) -> Tensor:
    """Return a mask [1, 1, height, width] at the size of latents, by the nearest value, as in diffusers."""
    return torch.nn.functional.interpolate(mask, size=tuple(latents[-2:]))
