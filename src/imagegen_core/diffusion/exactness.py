"""Layers whose results for one row of a batch do not depend on the others, so that sharing a pass changes no picture.

On a CPU, torch chooses how to compute a layer by its input's size, and the batch is part of that size. Two choices
matter: a convolution of one small row leaves oneDNN for another kernel (``use_mkldnn`` in ATen's Convolution.cpp), and
a matrix product of few lines is summed up in another order. Which layers these were was found by comparing bits, at all
lengths from 1 to 100 tokens, with one thread and with two. On other devices nothing is changed. What holds, here as
there, is proven by an engine before it relies on it: see `imagegen_core.engine.calibration`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ALIKE_BATCHED = 4  # tokens below which a batched product sums up each row alike
_ALIKE = 12  # tokens below which only multiples of 4 are summed up alike by whatever product


class RowwiseConv2d(torch.nn.Conv2d):
    """A convolution that always computes by oneDNN."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """See `torch.nn.Conv2d`."""
        padding = self.padding
        if isinstance(padding, str) or torch.compiler.is_compiling():  # which has choices of its own
            return super().forward(input)
        return torch.mkldnn_convolution(input, self.weight, self.bias, padding, self.stride, self.dilation, self.groups)


class RowwiseLinear(torch.nn.Linear):
    """A linear layer that computes each row of a batch by itself, where the row has few tokens."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """See `torch.nn.Linear`."""
        tokens = input[0].numel() // self.in_features
        if tokens < _ALIKE_BATCHED and self.bias is not None:
            lines = input.reshape(len(input), tokens, self.in_features)
            weight = self.weight.t().expand(len(input), -1, -1)
            return torch.baddbmm(self.bias, lines, weight).reshape(*input.shape[:-1], self.out_features)
        if tokens < _ALIKE and (tokens % 4 or tokens < _ALIKE_BATCHED):
            rows = [torch.nn.functional.linear(row, self.weight, self.bias) for row in torch.split(input, 1)]
            return torch.cat(rows)
        return torch.nn.functional.linear(input, self.weight, self.bias)


_ROWWISE: dict[type, type] = {torch.nn.Conv2d: RowwiseConv2d, torch.nn.Linear: RowwiseLinear}


def make_rowwise(network: Any) -> None:
    """Have the layers of a network on a CPU compute row by row where it matters; again after layers were added."""
    for module in network.modules():
        if type(module) in _ROWWISE and module.weight.device.type == "cpu" and module.weight.dtype == torch.float32:
            module.__class__ = _ROWWISE[type(module)]
