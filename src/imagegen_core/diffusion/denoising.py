"""Run denoising steps one at a time, for one request or for several together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from imagegen_core.diffusion.conditioning import Conditioning
from imagegen_core.diffusion.loras.adapters import Adapter
from imagegen_core.diffusion.scheduling import step_arguments
from imagegen_core.errors import ImagegenError
from imagegen_core.job import StepDone
from imagegen_core.request import ResolvedRequest


@dataclass
class Denoising:
    """A request between two steps, with its own scheduler, generator and latents.

    Attributes:
        request: The resolved request.
        scheduler: A diffusers scheduler with its timesteps set; it keeps its own state.
        generator: The CPU generator for all noise of this picture.
        latents: Noisy latents [1, channels, height / 8, width / 8], in the UNet's dtype.
        conditionings: The prompt's; with classifier-free guidance, the negative prompt's first.
        adapters: The request's LoRAs: the mode's, then the style's.
        guidance_embedding: [1, time_cond_proj_dim] for models distilled with guidance, else None.
        step_options: The request's extra arguments for the scheduler's step.
        on_step: Called after each step.
        index: The number of completed steps.
        failure: The error of this request in its last step, if any.
    """

    request: ResolvedRequest
    scheduler: Any
    generator: torch.Generator
    latents: Tensor
    conditionings: tuple[Conditioning, ...]
    adapters: tuple[Adapter, ...] = ()
    guidance_embedding: Tensor | None = None
    step_options: Mapping[str, float] = field(default_factory=dict)
    on_step: Callable[[StepDone], None] | None = None
    index: int = 0
    failure: Exception | None = None

    @property
    def steps_left(self) -> int:
        """The number of remaining steps; at 0 the latents are final."""
        return len(self.scheduler.timesteps) - self.index

    @property
    def rows(self) -> int:
        """The request's number of rows in a forward pass: one row for each conditioning."""
        return len(self.conditionings)

    @property
    def timestep(self) -> Tensor:
        """The timestep of the next step, a scalar."""
        return self.scheduler.timesteps[self.index]  # type: ignore[no-any-return]

    def unet_latents(self) -> Tensor:
        """Return the scaled latents for the UNet, one row for each conditioning."""
        scaled: Tensor = self.scheduler.scale_model_input(self.latents, self.timestep)
        return scaled.expand(len(self.conditionings), -1, -1, -1)

    def advance(self, prediction: Tensor) -> None:
        """Take one step with the UNet's prediction, which has one row for each conditioning.

        Raises:
            ImagegenError: The latents became infinite or NaN.
        """
        if len(prediction) > 1:
            negative, positive = prediction.chunk(2)
            prediction = negative + self.request.guidance_scale * (positive - negative)
            if self.request.guidance_rescale:
                prediction = rescaled(prediction, positive, self.request.guidance_rescale)
        more = step_arguments(self.scheduler, self.generator, self.step_options)
        self.latents = self.scheduler.step(prediction, self.timestep, self.latents, return_dict=False, **more)[0]
        self.index += 1
        if not self.latents.isfinite().all():
            raise ImagegenError(
                f"The latents are not finite (NaN) after step {self.index} of {len(self.scheduler.timesteps)}: lower "
                f"guidance_scale ({self.request.guidance_scale:g}), or, where an ordinary one does this too, set "
                "CUDA_DTYPE to bf16 or fp32"
            )
        if self.on_step:
            self.on_step(StepDone(self.index, len(self.scheduler.timesteps)))


def rescaled(guided: Tensor, positive: Tensor, rescale: float) -> Tensor:
    """Rescale a guided prediction to the prompt's own spread: https://arxiv.org/abs/2305.08891, section 3.4.

    Args:
        guided: The prediction after guidance, [rows, channels, height, width].
        positive: The prediction for the prompt, of the same shape.
        rescale: The share of the rescaled prediction, from 0 to 1.
    """
    others = tuple(range(1, guided.ndim))
    spread = guided * (positive.std(dim=others, keepdim=True) / guided.std(dim=others, keepdim=True))
    return rescale * spread + (1 - rescale) * guided


def step_together(unet: Callable[..., Any], states: Sequence[Denoising], filled: int | None = None) -> None:
    """Take one step of each state, with one forward pass of `unet` for all their rows.

    If a state's scheduler fails, the error becomes the state's `failure`. If the pass fails, no state has moved.

    Args:
        unet: A diffusers ``UNet2DConditionModel``, or its ``forward``.
        states: Requests of one group; their timesteps, guidance and schedulers may differ.
        filled: The number of rows to fill the pass up to; None leaves the states with their own rows.
    """
    for state, prediction in zip(states, predict(unet, states, filled), strict=True):
        advance(state, prediction)


def advance(state: Denoising, prediction: Tensor) -> None:
    """Take one step of one state, or keep the error as its `failure`."""
    try:
        state.advance(prediction)
    except Exception as error:  # noqa: BLE001 - any scheduler error concerns this request alone
        state.failure = error


def predict(unet: Callable[..., Any], states: Sequence[Denoising], filled: int | None = None) -> Sequence[Tensor]:
    """Return the prediction of `unet` for each state's next step, in one forward pass; see `step_together`."""
    conditionings = [conditioning for state in states for conditioning in state.conditionings]
    guidance = _guidance_embeddings(states)

    def full(rows: Tensor) -> Tensor:
        missing = (filled or 0) - len(rows)
        return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing > 0 else rows

    predictions: Tensor = unet(
        full(torch.cat([state.unet_latents() for state in states])),
        full(torch.cat([state.timestep.expand(state.rows) for state in states])),
        encoder_hidden_states=full(torch.cat([conditioning.tokens for conditioning in conditionings])),
        timestep_cond=None if guidance is None else full(guidance),
        added_cond_kwargs={name: full(rows) for name, rows in _added(conditionings).items()},
        return_dict=False,
    )[0]
    return torch.split(predictions[: len(conditionings)], [state.rows for state in states])


def _guidance_embeddings(states: Sequence[Denoising]) -> Tensor | None:
    embeddings = [state.guidance_embedding for state in states if state.guidance_embedding is not None]
    return torch.cat(embeddings) if embeddings else None


def _added(conditionings: Sequence[Conditioning]) -> dict[str, Tensor]:
    names = conditionings[0].added
    return {name: torch.cat([conditioning.added[name] for conditioning in conditionings]) for name in names}
