"""Layers that compute each row of a batch independently, so that a shared pass changes no picture.

On a CPU, torch chooses how to compute a layer by its input's size, and the batch is part of that size. Three choices
matter. A convolution of one small row uses another kernel than oneDNN's (``use_mkldnn`` in ATen's Convolution.cpp). A
matrix product of few lines adds up in another order. A group norm with the channels last divides the pixels of all rows
among the threads (``GroupNormKernelImplChannelsLastInternal`` in ATen). These layers were identified by comparing bits,
at all lengths from 1 to 100 tokens, with one thread and with two. On other devices nothing changes. On every device,
the engine proves the result before it relies on it: see `imagegen_core.engine.calibration`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ALIKE_BATCHED = 4  # below this many tokens, a batched product adds up each row in the same order
_ALIKE = 12  # below this many tokens, the order of every product is the same only for multiples of 4


def linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 - torch's name
    """Compute a linear layer, row by row where a row has few tokens; see `torch.nn.Linear`."""
    if not _is_affected(weight):
        return torch.nn.functional.linear(input, weight, bias)
    width_out, width_in = weight.shape
    tokens = input[0].numel() // width_in
    if tokens < _ALIKE_BATCHED and bias is not None:
        lines = input.reshape(len(input), tokens, width_in)
        return torch.baddbmm(bias, lines, weight.t().expand(len(input), -1, -1)).reshape(*input.shape[:-1], width_out)
    if tokens < _ALIKE and (tokens % 4 or tokens < _ALIKE_BATCHED):
        return torch.cat([torch.nn.functional.linear(row, weight, bias) for row in torch.split(input, 1)])
    return torch.nn.functional.linear(input, weight, bias)


def conv2d(
    input: Tensor,  # noqa: A002 - torch's name
    weight: Tensor,
    bias: Tensor | None,
    stride: Any = (1, 1),
    padding: Any = (0, 0),
    dilation: Any = (1, 1),
    groups: int = 1,
) -> Tensor:
    """Compute a convolution, on a CPU always with oneDNN; see `torch.nn.functional.conv2d`."""
    if isinstance(padding, str) or torch.compiler.is_compiling() or not _is_affected(weight):  # a compiler chooses
        return torch.nn.functional.conv2d(input, weight, bias, stride, padding, dilation, groups)
    return torch.mkldnn_convolution(input, weight, bias, padding, stride, dilation, groups)


class RowwiseConv2d(torch.nn.Conv2d):
    """A convolution computed by `conv2d`."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """See `torch.nn.Conv2d`."""
        return conv2d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class RowwiseLinear(torch.nn.Linear):
    """A linear layer computed by `linear`."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """See `torch.nn.Linear`."""
        return linear(input, self.weight, self.bias)


class RowwiseGroupNorm(torch.nn.GroupNorm):
    """A group norm that computes pictures with the channels last one by one."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """See `torch.nn.GroupNorm`."""
        if len(input) == 1 or input.is_contiguous() or input.device.type != "cpu":
            return super().forward(input)
        groups, weight, bias, eps = self.num_groups, self.weight, self.bias, self.eps
        return torch.cat(
            [torch.nn.functional.group_norm(row, groups, weight, bias, eps) for row in torch.split(input, 1)]
        )


_ROWWISE: dict[type, type] = {torch.nn.Conv2d: RowwiseConv2d, torch.nn.Linear: RowwiseLinear}


def make_rowwise(network: Any) -> None:
    """Make the layers of a network on a CPU compute row by row where it matters."""
    for module in network.modules():
        if type(module) in _ROWWISE and _is_affected(module.weight):
            module.__class__ = _ROWWISE[type(module)]
        elif type(module) is torch.nn.GroupNorm:
            module.__class__ = RowwiseGroupNorm


def _is_affected(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32
