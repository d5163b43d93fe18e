"""A picture between two workers: one has drawn the first steps, and a refiner draws the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from imagegen_core.diffusion.canvas import Canvas
from imagegen_core.diffusion.denoising import Denoising
from imagegen_core.diffusion.prediction import is_edm
from imagegen_core.diffusion.starting_point import Painting, StartingPoint
from imagegen_core.errors import InvalidRequestError
from imagegen_core.images.recipe import Recipe
from imagegen_core.request import ResolvedRequest


class LatentSpace(NamedTuple):
    """The numbers that make the latents of two models interchangeable."""

    channels: int
    scale: float
    mean: tuple[float, ...] | None
    deviation: tuple[float, ...] | None
    trained_steps: int

    @classmethod
    def of(cls, pipe: Any) -> Self:
        """Return the latent space of a pipeline."""
        config = pipe.vae.config
        mean, deviation = (getattr(config, name, None) for name in ("latents_mean", "latents_std"))
        return cls(
            config.latent_channels,
            config.scaling_factor,
            None if mean is None else tuple(mean),
            None if deviation is None else tuple(deviation),
            pipe.scheduler.config.num_train_timesteps,
        )


@dataclass(frozen=True, slots=True)
class HalfDrawn:
    """A picture without its last steps.

    Attributes:
        request: The whole request, with its seed.
        scheduler: The name of its sampler, also if it was the worker's default.
        latents: The noisy latents [1, ...], in the main memory.
        generator: The generator for all noise of the picture.
        steps: The number of completed steps.
        space: The latents' space.
        canvas: The prepared input picture, if there is one.
        painting: The parts that are not drawn, if there are any, in the main memory.
        recipe: Returns the recipe as of the first worker; None without recipes.
    """

    request: ResolvedRequest
    scheduler: str
    latents: Tensor
    generator: torch.Generator
    steps: int
    space: LatentSpace
    canvas: Canvas | None
    painting: Painting | None
    recipe: Callable[[], Recipe] | None

    @classmethod
    def of(cls, state: Denoising, scheduler: str, pipe: Any, recipe: Callable[[], Recipe] | None) -> Self:
        """Take over the state of a worker whose steps are done."""
        start = state.start or StartingPoint(state.latents)
        return cls(
            request=state.request,
            scheduler=state.request.scheduler or scheduler,
            latents=state.latents.cpu(),
            generator=state.generator,
            steps=state.done + state.index,
            space=LatentSpace.of(pipe),
            canvas=start.canvas,
            painting=start.painting and start.painting.to(torch.device("cpu"), state.latents.dtype),
            recipe=recipe,
        )

    def begin(self, scheduler: Any, device: torch.device, dtype: torch.dtype) -> StartingPoint:
        """Return the point where a refiner goes on, and let its scheduler begin there.

        Raises:
            InvalidRequestError: No step is left.
        """
        first = start_of_last_part(scheduler, self.request)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        painting = self.painting and self.painting.to(device, dtype)
        return StartingPoint(self.latents.to(device, dtype), first, self.canvas, painting)


def end_of_first_part(scheduler: Any, request: ResolvedRequest, first: int) -> int:
    """Return the index of the timestep before which the first worker stops, as by diffusers' ``denoising_end``.

    Args:
        scheduler: The request's scheduler with its timesteps set.
        request: The request with a refiner.
        first: The index of the first timestep.

    Raises:
        InvalidRequestError: No step comes before.
    """
    end = int((scheduler.timesteps >= _switch(scheduler, request)).sum())
    if end <= first:  # an input picture may leave out the first timesteps
        raise InvalidRequestError(
            f"Invalid switch_at {request.switch_at:g}: none of the {request.steps} steps comes before the refiner; "
            "raise it, or ask for more steps",
            "switch_at",
        )
    return end


def start_of_last_part(scheduler: Any, request: ResolvedRequest) -> int:
    """Return the index of a refiner's first timestep, as by diffusers' ``denoising_start``.

    Schedulers of the second order repeat timesteps; there the refiner begins a step, also if that repeats a timestep.

    Raises:
        InvalidRequestError: No step is left.
    """
    left = int((scheduler.timesteps < _switch(scheduler, request)).sum())
    if not left:
        raise InvalidRequestError(
            f"Invalid switch_at {request.switch_at:g}: none of the {request.steps} steps is left to the refiner; "
            "lower it, or ask for more steps",
            "switch_at",
        )
    if getattr(scheduler, "order", 1) == 2 and left % 2 == 0:  # noqa: PLR2004 - the second order
        left += 1
    return len(scheduler.timesteps) - left


def _switch(scheduler: Any, request: ResolvedRequest) -> int:
    """Return the timestep at `switch_at`; steps from there on are before the refiner."""
    if is_edm(type(scheduler)):
        raise InvalidRequestError(
            "Invalid refiner: the noise levels of this EDM checkpoint are not those of others; leave refiner out",
            "refiner",
        )
    trained: int = scheduler.config.num_train_timesteps
    return round(trained - (request.switch_at or 0.0) * trained)
