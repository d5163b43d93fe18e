"""Layers whose results for one row of a batch do not depend on the others, so that sharing a pass changes no picture.

On a CPU, torch chooses how to compute a layer by its input's size, and the batch is part of that size. Two choices
matter: a convolution of one small row leaves oneDNN for another kernel (``use_mkldnn`` in ATen's Convolution.cpp), and
a matrix product of few rows is summed up in another order. On other devices nothing is changed: what holds there is
proven when an engine starts, see `imagegen_core.engine.calibration`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_FEW = 16  # tokens a row up to which a product's order of summing was seen to depend on their number


class RowwiseConv2d(torch.nn.Conv2d):
    """A convolution that always computes by oneDNN."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """See `torch.nn.Conv2d`."""
        padding = self.padding
        if isinstance(padding, str):  # "same" or "valid", which no network here asks for
            return super().forward(input)
        return torch.mkldnn_convolution(input, self.weight, self.bias, padding, self.stride, self.dilation, self.groups)


class RowwiseLinear(torch.nn.Linear):
    """A linear layer that computes each row of a batch by itself, where the row has few tokens."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """See `torch.nn.Linear`."""
        rows = len(input)
        if rows == 1 or input[0].numel() > _FEW * self.in_features:
            return torch.nn.functional.linear(input, self.weight, self.bias)
        return torch.cat([torch.nn.functional.linear(row, self.weight, self.bias) for row in torch.split(input, 1)])


_ROWWISE: dict[type, type] = {torch.nn.Conv2d: RowwiseConv2d, torch.nn.Linear: RowwiseLinear}


def make_rowwise(network: Any) -> None:
    """Have the layers of a network on a CPU compute row by row where it matters; again after layers were added."""
    for module in network.modules():
        if type(module) in _ROWWISE and module.weight.device.type == "cpu" and module.weight.dtype == torch.float32:
            module.__class__ = _ROWWISE[type(module)]
