"""The state of a request between two denoising steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from imagegen_core.diffusion.conditioning import Conditioning
from imagegen_core.diffusion.loras.adapters import Adapter
from imagegen_core.diffusion.scheduling import step_arguments
from imagegen_core.errors import ImagegenError
from imagegen_core.job import StepDone
from imagegen_core.parts import Parts
from imagegen_core.request import ResolvedRequest

if TYPE_CHECKING:
    from imagegen_core.diffusion.extension import Extension
    from imagegen_core.diffusion.half_drawn import HalfDrawn
    from imagegen_core.diffusion.stages import Stage
    from imagegen_core.diffusion.starting_point import StartingPoint


@dataclass
class Denoising:
    """A request between two steps, with its own scheduler, generator and latents.

    Attributes:
        request: The resolved request; in a further stage, this stage's request.
        scheduler: A diffusers scheduler with its timesteps set; it keeps its own state.
        generator: The CPU generator for all noise of this picture.
        latents: Noisy latents [1, ...], in the network's dtype.
        conditionings: The prompt's; with classifier-free guidance, the negative prompt's first.
        adapters: The request's LoRAs: the mode's, then the style's.
        parts: The request's extensions in their order, each with the request's part; see `Extension.begin`.
        step_options: The request's extra arguments for the scheduler's step.
        on_step: Called after each step.
        start: The starting point of the drawing; its input picture and mask, if there are any.
        next: The stage after this one, if there is one.
        asked: The whole request, if `request` is that of a further stage.
        stage: A number that grows whenever the state may have another group.
        enlargement: The work between two stages, while it lasts; it returns the latents of the next stage.
        end: The index of the timestep before which this worker stops, for a refiner; None draws all timesteps.
        before: The first part of this picture, from another worker.
        refining: The number of steps of the refiner after this worker's.
        done: The number of steps in the completed stages.
        index: The number of completed steps in this stage.
        failure: The error of this request in its last step, if any.
    """

    request: ResolvedRequest
    scheduler: Any
    generator: torch.Generator
    latents: Tensor
    conditionings: tuple[Conditioning, ...]
    adapters: tuple[Adapter, ...] = ()
    parts: dict[Extension, Any] = field(default_factory=dict)
    step_options: Mapping[str, float] = field(default_factory=dict)
    on_step: Callable[[StepDone], None] | None = None
    start: StartingPoint | None = None
    next: Stage | None = None
    asked: ResolvedRequest | None = None
    stage: int = 0
    enlargement: Parts[Tensor] | None = None
    end: int | None = None
    before: HalfDrawn | None = None
    refining: int = 0
    done: int = 0
    index: int = 0
    failure: Exception | None = None

    @property
    def steps_left(self) -> int:
        """The number of this worker's remaining steps."""
        return self.steps - self.refining - self.done - self.index

    @property
    def is_final(self) -> bool:
        """Whether the latents are final: neither a step nor a refiner follows."""
        return not self.steps_left and not self.refining

    @property
    def steps(self) -> int:
        """The number of all steps of all stages, also a refiner's; an input picture may leave out the first ones."""
        return self.done + self._own_steps + (self.next.steps if self.next else 0) + self.refining

    @property
    def is_between_stages(self) -> bool:
        """Whether this stage's steps are done, and another stage follows."""
        return self.next is not None and self.index == self._own_steps

    @property
    def rows(self) -> int:
        """The request's number of rows in a forward pass: one row for each conditioning."""
        return len(self.conditionings)

    @property
    def timestep(self) -> Tensor:
        """The timestep of the next step, a scalar."""
        return self.scheduler.timesteps[self._first + self.index]  # type: ignore[no-any-return]

    def scaled_latents(self) -> Tensor:
        """Return the network's latents [rows, ...], scaled if the scheduler scales them."""
        latents = self.latents
        if hasattr(self.scheduler, "scale_model_input"):  # flow-matching schedulers scale nothing
            latents = self.scheduler.scale_model_input(latents, self.timestep)
        return latents.expand(self.rows, *latents.shape[1:])

    def advance(self, prediction: Tensor) -> None:
        """Take one step with the network's prediction [rows, ...]; an error becomes the request's `failure`."""
        try:
            self._advance(prediction)
        except Exception as error:  # noqa: BLE001 - any error of a scheduler or extension concerns this request alone
            self.failure = error

    def _advance(self, prediction: Tensor) -> None:
        for extension, part in self.parts.items():
            prediction = extension.combine(self, part, prediction)
        more = step_arguments(self.scheduler, self.generator, self.step_options)
        self.latents = self.scheduler.step(prediction, self.timestep, self.latents, return_dict=False, **more)[0]
        self.index += 1
        for extension, part in self.parts.items():
            extension.after_step(self, part)
        if not self.latents.isfinite().all():
            raise ImagegenError(
                f"The latents are not finite (NaN) after step {self.done + self.index} of {self.steps}: lower "
                f"guidance_scale ({self.request.guidance_scale:g}), or, where an ordinary one does this too, set "
                "CUDA_DTYPE to bf16 or fp32"
            )
        if self.on_step:
            self.on_step(StepDone(self.done + self.index, self.steps))

    @property
    def _own_steps(self) -> int:
        """The number of this stage's steps."""
        return (len(self.scheduler.timesteps) if self.end is None else self.end) - self._first

    @property
    def _first(self) -> int:
        """The index of the first timestep."""
        return self.start.first if self.start else 0
