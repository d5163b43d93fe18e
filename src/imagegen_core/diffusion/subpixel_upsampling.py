"""Upsampling by nearest neighbours with the convolution after it, as four small convolutions of the small picture.

Of the nine inputs of a 3x3 kernel in the doubled picture, several are the same pixel. So each of a pixel's four outputs
is a 2x2 convolution with sums of the kernel's weights: 16 products instead of 36 (https://arxiv.org/abs/1609.05158).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from imagegen_core.diffusion.batch_invariance import conv2d

POSITIONS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""The line and column of an output among the four outputs of a pixel."""

_ROWS = 64  # of a kernel, to sum at a time: few enough that the load's peak of memory does not grow


class SubpixelUpsampling(torch.nn.Module):
    """Doubles a picture's sides with nearest neighbours, and convolves it; replaces diffusers' ``Upsample2D``.

    Attributes:
        conv: The 3x3 convolution. Its forward hooks, such as LoRAs, get the doubled picture.
    """

    kernels: Tensor

    def __init__(self, conv: torch.nn.Conv2d) -> None:
        """Sum the kernel's weights; `conv` keeps its own."""
        super().__init__()
        self.conv = conv
        shape = (len(POSITIONS), conv.out_channels, 2, 2, conv.in_channels)
        kernels = torch.empty(shape, dtype=conv.weight.dtype, device=conv.weight.device).permute(0, 1, 4, 2, 3)
        weights = torch.split(conv.weight.detach(), _ROWS)
        for part, weight in zip(torch.split(kernels, _ROWS, dim=1), weights, strict=True):
            _fill(part, weight.float())
        self.register_buffer("kernels", kernels, persistent=False)

    def forward(self, hidden_states: Tensor, output_size: Any = None) -> Tensor:
        """Double and convolve [rows, channels, height, width]; another `output_size` is computed as in diffusers."""
        rows, _, height, width = hidden_states.shape
        if output_size is not None and tuple(output_size) != (2 * height, 2 * width):
            resized: Tensor = self.conv(functional.interpolate(hidden_states, size=output_size, mode="nearest"))
            return resized
        output = hidden_states.new_empty(rows, height, 2, width, 2, self.conv.out_channels)
        for (line, column), pixels in zip(POSITIONS, self.quarters(hidden_states), strict=True):
            output[:, :, line, :, column] = pixels.permute(0, 2, 3, 1)
        doubled = output.view(rows, 2 * height, 2 * width, -1).permute(0, 3, 1, 2)
        return self._hooked(hidden_states, doubled)

    def quarters(self, hidden_states: Tensor) -> list[Tensor]:
        """Compute the outputs at each of `POSITIONS`, in the sides of `hidden_states`."""
        rows = hidden_states.permute(0, 2, 3, 1)
        computed = []
        for (line, column), kernel in zip(POSITIONS, self.kernels, strict=True):
            padded = functional.pad(rows, (0, 0, 1 - column, column, 1 - line, line)).permute(0, 3, 1, 2)
            computed.append(conv2d(padded, kernel, self.conv.bias))
        return computed

    def _hooked(self, hidden_states: Tensor, doubled: Tensor) -> Tensor:
        """Call the convolution's forward hooks, as its own call would."""
        hooks = self.conv._forward_hooks  # noqa: SLF001 - torch has no public way to read them
        if hooks:
            inputs = (functional.interpolate(hidden_states, scale_factor=2.0, mode="nearest"),)
            for hook in hooks.values():
                changed = hook(self.conv, inputs, doubled)
                doubled = doubled if changed is None else changed
        return doubled


def _fill(kernels: Tensor, weight: Tensor) -> None:
    """Write the 2x2 kernels of all outputs: the sums of a 3x3 kernel's lines and columns in fp32.

    In the doubled picture, an upper output sees the pixel above and twice its own pixel. A lower one sees its own pixel
    twice and the pixel below.
    """
    for kernel, (line, column) in zip(kernels, POSITIONS, strict=True):
        for row, part in enumerate(_halves(weight, 2, line)):
            for place, value in enumerate(_halves(part, 2, column)):
                kernel[:, :, row, place] = value


def _halves(weight: Tensor, dim: int, half: int) -> tuple[Tensor, Tensor]:
    """Sum three lines, or columns, to the two that an output in one half of a pixel sees."""
    first, middle, last = weight.unbind(dim)
    return (first, middle + last) if half == 0 else (first + middle, last)


def fits(upsampler: Any) -> bool:
    """Return whether an ``Upsample2D`` doubles with nearest neighbours and convolves with a 3x3 kernel."""
    conv = getattr(upsampler, "conv", None)
    return (
        isinstance(conv, torch.nn.Conv2d)
        and upsampler.interpolate
        and upsampler.norm is None
        and (conv.kernel_size, conv.stride, conv.padding, conv.groups) == ((3, 3), (1, 1), (1, 1), 1)
    )
