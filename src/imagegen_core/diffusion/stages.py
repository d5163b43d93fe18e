"""Stages of a drawing: a second one at a larger size begins with the latents of the first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from imagegen_core.diffusion.conditioning import Conditioning
from imagegen_core.diffusion.stage_upscaling import LoadedUpscaler
from imagegen_core.diffusion.starting_point import StartingPoint, enlarged, first_step, noised, skip_steps
from imagegen_core.request import ResolvedRequest

if TYPE_CHECKING:
    from imagegen_core.diffusion.denoising import Denoising


@dataclass(frozen=True, slots=True)
class Stage:
    """A further stage of a drawing, ready to begin.

    Attributes:
        request: The stage's request, with its size, steps and strength.
        scheduler: Its scheduler with its timesteps set.
        conditionings: See `Denoising`.
        step_options: See `Denoising`.
        first: The index of its first timestep.
        upscaler: Enlarges the picture of the stage before; None enlarges its latents.
    """

    request: ResolvedRequest
    scheduler: Any
    conditionings: tuple[Conditioning, ...]
    step_options: Mapping[str, float]
    first: int
    upscaler: LoadedUpscaler | None = None

    @classmethod
    def of(
        cls,
        request: ResolvedRequest,
        scheduler: Any,
        conditionings: tuple[Conditioning, ...],
        step_options: Mapping[str, float],
        upscaler: LoadedUpscaler | None,
        *,
        rounds_up: bool,
    ) -> Stage:
        """Prepare a stage; see `first_step` for `rounds_up`."""
        skipped = first_step(request.steps, request.strength or 0.0, rounds_up=rounds_up)
        return cls(request, scheduler, conditionings, step_options, skip_steps(scheduler, skipped), upscaler)

    @property
    def steps(self) -> int:
        """The number of its steps."""
        return len(self.scheduler.timesteps) - self.first

    def begin(self, state: Denoising, larger: Tensor | None, noise: Tensor) -> None:
        """Move a state from the stage before into this stage.

        Args:
            state: The state, with the final latents of the stage before.
            larger: The latents of the enlarged picture; None enlarges the state's latents.
            noise: The first noise of this stage, in the shape of its latents.
        """
        timestep = self.scheduler.timesteps[self.first]
        clean = enlarged(state.latents, noise.shape) if larger is None else larger
        latents = noised(self.scheduler, clean, noise, timestep)
        state.asked, state.request, state.scheduler = state.request, self.request, self.scheduler
        state.conditionings, state.step_options = self.conditionings, self.step_options
        state.start, state.latents, state.next = StartingPoint(latents, self.first), latents, None
        state.done, state.index, state.stage = state.done + state.index, 0, state.stage + 1
