"""Products in int8 on a CPU: weights are quantized once, inputs at each call.

Weights have one scale for each output channel. A row's input has one scale and one zero point, from its own smallest
and largest value, so that a row's result does not depend on its company.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_LEVELS = 255
_LARGEST_WEIGHT = 127
_CHUNK = 2**20  # numbers to quantize at a time, so that they stay in the cache


class Quantized(NamedTuple):
    """Numbers in uint8: ``scale * (levels - zero)``.

    Attributes:
        levels: The integers.
        scale: The distance of two levels.
        zero: The level of 0.0, at least 1.
    """

    levels: Tensor
    scale: float
    zero: int

    @classmethod
    def of(cls, numbers: Tensor) -> Quantized:
        """Quantize a dense tensor between its own limits; if a number is not finite, all results are NaN."""
        low, high = (float(limit) for limit in torch.aminmax(_flat(numbers)))
        if not math.isfinite(high - low):
            return cls(torch.zeros_like(numbers, dtype=torch.uint8), math.nan, 1)
        scale = (max(high, 0.0) - min(low, 0.0)) / _LEVELS or 1.0
        zero = max(round(-min(low, 0.0) / scale), 1)
        levels = torch.empty_like(numbers, dtype=torch.uint8)
        flat, into = _flat(numbers), _flat(levels)
        computed = torch.empty(min(_CHUNK, len(flat)))
        for part, target in zip(torch.split(flat, _CHUNK), torch.split(into, _CHUNK), strict=True):
            floats = computed[: len(part)].copy_(part)
            target.copy_(floats.div_(scale).add_(zero + 0.5).clamp_max_(_LEVELS))
        return cls(levels, scale, zero)

    def padded(self, left: int, right: int, top: int, bottom: int) -> Quantized:
        """Add lines of 0.0 around [rows, channels, height, width] in channels last."""
        rows = self.levels.permute(0, 2, 3, 1)
        levels = functional.pad(rows, (0, 0, left, right, top, bottom), value=self.zero).permute(0, 3, 1, 2)
        return Quantized(levels, self.scale, self.zero)


class Int8Product:
    """A product of a quantized row with a quantized matrix, which is packed for oneDNN."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Quantize and pack a weight, [outputs, inputs]."""
        levels, self._scales = _quantized_weight(weight)
        self._weight = torch.ops.onednn.qlinear_prepack(levels, None)
        self._zeros = torch.zeros(len(weight), dtype=torch.int32)
        self._bias = None if bias is None else bias.detach().float()
        self.memory_bytes = levels.nbytes

    def __call__(self, row: Quantized, dtype: torch.dtype) -> Tensor:
        """Multiply [..., inputs] to [..., outputs] in `dtype`."""
        weight = (self._weight, self._scales, self._zeros, self._bias)
        output: Tensor = torch.ops.onednn.qlinear_pointwise(*row, *weight, 1.0, 0, dtype, "none", [], "")
        return output


class Int8Convolution:
    """A convolution of one quantized row with a quantized weight, which is packed for oneDNN."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, stride: tuple[int, int] = (1, 1), padding: tuple[int, int] = (0, 0)
    ) -> None:
        """Quantize and pack a weight, [outputs, inputs, height, width]."""
        levels, self._scales = _quantized_weight(weight)
        self._stride, self._padding = [*stride], [*padding]
        pack = torch.ops.onednn.qconv_prepack
        self._weight = pack(levels, self._scales, 1.0, 1, self._stride, self._padding, [1, 1], 1, None)
        self._zeros = torch.zeros(len(weight), dtype=torch.int32)
        self._bias = None if bias is None else bias.detach().float()
        self.memory_bytes = levels.nbytes

    def __call__(self, row: Quantized, dtype: torch.dtype) -> Tensor:
        """Convolve [1, inputs, height, width] to [1, outputs, height, width] in `dtype`."""
        convolution = torch.ops.onednn.qconv2d_pointwise
        weight = (self._weight, self._scales, self._zeros, self._bias)
        geometry = (self._stride, self._padding, [1, 1], 1)
        output: Tensor = convolution(*row, *weight, *geometry, 1.0, 0, dtype, "none", [], "")
        return output


def _quantized_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the levels of a weight, and the scale of each output, which is the first dimension."""
    numbers = weight.detach().float()
    scales = numbers.flatten(1).abs().amax(1).clamp_min(1e-12) / _LARGEST_WEIGHT
    levels = (numbers / scales.reshape(-1, *(1,) * (numbers.ndim - 1))).round().to(torch.int8)
    return levels, scales


def _flat(tensor: Tensor) -> Tensor:
    """Return a view of a tensor's numbers, in the order of its memory."""
    return tensor.as_strided((tensor.numel(),), (1,))
