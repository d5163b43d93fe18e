"""The first noise of a picture, also between two seeds or from another size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from imagegen_core.request import ResolvedRequest, Size

Draw = Callable[[Size, torch.Generator], Tensor]
"""Draws noise for a size, in the shape of latents."""

_PARALLEL = 0.9995  # as in A1111 (modules/rng.py)
_ROWS = -2  # the dimension of latents that A1111 takes for the vectors


def first_noise(request: ResolvedRequest, generator: torch.Generator, draw: Draw) -> Tensor:
    """Draw the noise of a request, by the rules of A1111's extra seeds (``ImageRNG.first``, modules/rng.py, 1.10).

    Args:
        request: The request.
        generator: The request's generator.
        draw: Draws the noise of a size.
    """
    variation, whole = request.variation, draw(request.size, generator)
    if not variation:
        return whole
    if variation.resize_from is None:
        return _between(whole, draw(request.size, _seeded(variation.seed)), variation.strength)
    size = Size.parse(variation.resize_from)
    part = draw(size, _seeded(request.seed))
    if variation.strength:
        part = _between(part, draw(size, _seeded(variation.seed)), variation.strength)
    return _with_middle(whole, part)


def interpolated(low: Tensor, high: Tensor, share: float) -> Tensor:
    """Interpolate spherically between two noises [..., height, width], along the height as in A1111.

    Nearly parallel noises are interpolated linearly. See https://en.wikipedia.org/wiki/Slerp.
    """
    cosine = (low / low.norm(dim=_ROWS, keepdim=True) * (high / high.norm(dim=_ROWS, keepdim=True))).sum(_ROWS)
    if cosine.mean() > _PARALLEL:
        return low + share * (high - low)
    angle = torch.acos(cosine).unsqueeze(_ROWS)
    sine = torch.sin(angle)
    return torch.sin((1 - share) * angle) / sine * low + torch.sin(share * angle) / sine * high


def _between(low: Tensor, high: Tensor, share: float) -> Tensor:
    return interpolated(low.float(), high.float(), share).to(low.dtype)


def _with_middle(whole: Tensor, part: Tensor) -> Tensor:
    """Return a noise with the middle of another, as much of it as fits."""
    result = whole.clone()
    (top, from_top, height), (left, from_left, width) = (
        _overlap(whole.shape[side], part.shape[side]) for side in (-2, -1)
    )
    inner = part[..., from_top : from_top + height, from_left : from_left + width]
    result[..., top : top + height, left : left + width] = inner
    return result


def _overlap(whole: int, part: int) -> tuple[int, int, int]:
    """Return where two centred lengths overlap: the beginning in each, and the length."""
    offset = (whole - part) // 2
    length = part if offset >= 0 else part + 2 * offset
    return max(offset, 0), max(-offset, 0), length


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)
