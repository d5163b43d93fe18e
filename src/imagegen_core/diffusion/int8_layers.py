"""Convolutions and linear layers that compute in int8 on a CPU.

The layers keep their weights, so that LoRAs work as usual.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from imagegen_core.diffusion.batch_invariance import RowwiseLinear, linear
from imagegen_core.diffusion.int8_products import Int8Convolution, Int8Product, Quantized
from imagegen_core.diffusion.subpixel_upsampling import POSITIONS, SubpixelUpsampling

_LINEAR = (torch.nn.Linear, RowwiseLinear)
_CHANNELS = 128  # of a convolution that gains
_WEIGHTS = 640 * 640  # of a linear layer that gains
_TOKENS = 128  # with fewer tokens, a linear layer reads more weights than it computes


class Int8Conv2d(torch.nn.Conv2d):
    """A convolution computed by an `Int8Convolution`, row by row."""

    quantized: Int8Convolution

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """See `torch.nn.Conv2d`; the result is in channels last."""
        rows = torch.split(input.contiguous(memory_format=torch.channels_last), 1)
        return _joined([self.quantized(Quantized.of(row), input.dtype) for row in rows])


class Int8PointwiseConv2d(torch.nn.Conv2d):
    """A convolution of single pixels computed by an `Int8Product`, row by row."""

    quantized: Int8Product

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """See `torch.nn.Conv2d`; the result is in channels last."""
        rows = torch.split(input.permute(0, 2, 3, 1).contiguous(), 1)
        return _joined([self.quantized(Quantized.of(row), input.dtype) for row in rows]).permute(0, 3, 1, 2)


class Int8Linear(torch.nn.Linear):
    """A linear layer computed by an `Int8Product`, row by row; a row of few tokens is computed as usual."""

    quantized: Int8Product

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """See `torch.nn.Linear`; the input is [rows, tokens, channels]."""
        if input.ndim != 3 or input.shape[1] < _TOKENS:  # noqa: PLR2004
            return linear(input, self.weight, self.bias)
        rows = torch.split(input.contiguous(), 1)
        return _joined([self.quantized(Quantized.of(row), input.dtype) for row in rows])


class Int8SubpixelUpsampling(SubpixelUpsampling):
    """A `SubpixelUpsampling` computed by four `Int8Convolution`s, row by row."""

    quantized: list[Int8Convolution]

    def quarters(self, hidden_states: Tensor) -> list[Tensor]:
        """See `SubpixelUpsampling.quarters`."""
        rows = torch.split(hidden_states.contiguous(memory_format=torch.channels_last), 1)
        by_row = [self._quarters(Quantized.of(row), row.dtype) for row in rows]
        return [_joined(quarter) for quarter in zip(*by_row, strict=True)]

    def _quarters(self, row: Quantized, dtype: torch.dtype) -> list[Tensor]:
        return [
            convolution(row.padded(1 - column, column, 1 - line, line), dtype)
            for (line, column), convolution in zip(POSITIONS, self.quantized, strict=True)
        ]


def use_int8(network: torch.nn.Module) -> None:
    """Make the large convolutions and linear layers of a network compute in int8.

    Each changed layer gets `packed_bytes`, the memory of its quantized weights.
    """
    layers = list(network.modules())
    of_upsamplers = {layer.conv for layer in layers if isinstance(layer, SubpixelUpsampling)}
    for layer in layers:
        if layer not in of_upsamplers:
            _quantize(layer)


def _quantize(layer: Any) -> None:
    if isinstance(layer, SubpixelUpsampling):
        kernels = [Int8Convolution(kernel, layer.conv.bias) for kernel in layer.kernels]
        _replace(layer, Int8SubpixelUpsampling, kernels, kernels)
    elif type(layer) in _LINEAR and layer.weight.numel() >= _WEIGHTS:
        product = Int8Product(layer.weight, layer.bias)
        _replace(layer, Int8Linear, product, [product])
    elif _gains(layer) and _is_pointwise(layer):
        product = Int8Product(layer.weight.flatten(1), layer.bias)
        _replace(layer, Int8PointwiseConv2d, product, [product])
    elif _gains(layer):
        convolution = Int8Convolution(layer.weight, layer.bias, layer.stride, layer.padding)
        _replace(layer, Int8Conv2d, convolution, [convolution])


def _replace(layer: Any, kind: type, quantized: object, parts: Sequence[Int8Convolution | Int8Product]) -> None:
    layer.__class__ = kind
    layer.quantized = quantized
    layer.packed_bytes = sum(part.memory_bytes for part in parts)


def _joined(rows: Sequence[Tensor]) -> Tensor:
    return rows[0] if len(rows) == 1 else torch.cat([*rows])


def _gains(conv: Any) -> bool:
    if not isinstance(conv, torch.nn.Conv2d):
        return False
    enough = _CHANNELS if conv.kernel_size != (1, 1) else _WEIGHTS**0.5
    return min(conv.in_channels, conv.out_channels) >= enough and conv.groups == 1 and conv.padding_mode == "zeros"


def _is_pointwise(conv: torch.nn.Conv2d) -> bool:
    return conv.kernel_size == conv.stride == (1, 1) and conv.padding == (0, 0)
