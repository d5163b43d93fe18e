"""Classifier-free guidance."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from imagegen_core.diffusion.extension import Extension

if TYPE_CHECKING:
    from imagegen_core.diffusion.denoising import Denoising


class _Guided(NamedTuple):
    """A request's options of guidance."""

    scale: float
    rescale: float


class ClassifierFreeGuidance(Extension):
    """Move each prediction away from the negative prompt's: https://arxiv.org/abs/2207.12598."""

    name = "guidance"
    order = 100

    def begin(self, state: Denoising) -> _Guided | None:
        """Return the options of a request with a conditioning for its negative prompt."""
        request = state.request
        return _Guided(request.guidance_scale, request.guidance_rescale) if len(state.conditionings) > 1 else None

    def combine(self, state: Denoising, part: _Guided, prediction: Tensor) -> Tensor:  # noqa: ARG002 - in general
        """Return the guided prediction [1, ...] from those of the negative prompt and the prompt."""
        negative, positive = prediction.chunk(2)
        guided = negative + part.scale * (positive - negative)
        return rescaled(guided, positive, part.rescale) if part.rescale else guided


def rescaled(guided: Tensor, positive: Tensor, rescale: float) -> Tensor:
    """Rescale a guided prediction to the prompt's own spread: https://arxiv.org/abs/2305.08891, section 3.4.

    Args:
        guided: The prediction after guidance, [rows, ...].
        positive: The prediction for the prompt, of the same shape.
        rescale: The share of the rescaled prediction, from 0 to 1.
    """
    others = tuple(range(1, guided.ndim))
    spread = guided * (positive.std(dim=others, keepdim=True) / guided.std(dim=others, keepdim=True))
    return rescale * spread + (1 - rescale) * guided
