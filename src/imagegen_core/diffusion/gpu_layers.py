"""Layers that compute full-size networks faster on an NVIDIA GPU since Ampere: channels last, and a group norm for it.

Tensor cores take pictures with the channels last. In torch's own layout, cuDNN converts each convolution's input and
output. torch's group norm reads a whole group in one block of threads, and has no kernel for channels last.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_AMPERE = (8, 0)  # the first compute capability with tensor cores for bf16 and TF32
_LARGE = 2**21  # values of a row: fewer are normalized faster by torch's kernel, though it changes the layout
_FEW_ROWS = 2  # each row has kernels of its own
_NO_EPSILON = 1e-30  # keeps the inverse of a constant channel's deviation finite


class ChannelsLastGroupNorm(torch.nn.GroupNorm):
    """A group norm that computes large pictures with the channels last by the kernels of ``torch.nn.SyncBatchNorm``.

    These kernels divide each channel among many blocks of threads. A group's variance is the mean of its channels'
    variances, plus the variance of their means.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """See `torch.nn.GroupNorm`."""
        if (
            not input.is_cuda
            or not input.is_contiguous(memory_format=torch.channels_last)
            or len(input) > _FEW_ROWS
            or input[0].numel() < _LARGE
        ):
            return super().forward(input)
        rows = [self._normalized(row) for row in torch.split(input, 1)]
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def _normalized(self, row: Tensor) -> Tensor:
        """Normalize [1, channels, height, width]."""
        means, inverses = torch.batch_norm_stats(row, _NO_EPSILON)
        mean, variance = group_moments(means, inverses.pow(-2), self.num_groups)
        width = self.num_channels // self.num_groups
        inverse = (variance + self.eps).rsqrt().repeat_interleave(width)
        # The kernel takes the inverse as it is, and not the epsilon.
        return torch.batch_norm_elemt(row, self.weight, self.bias, mean.repeat_interleave(width), inverse, self.eps)


def group_moments(means: Tensor, variances: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return the mean and the variance of each group, from those of its equally large channels."""
    spread, mean = torch.var_mean(means.view(groups, -1), 1, correction=0)
    return mean, variances.view(groups, -1).mean(1) + spread


def has_tensor_cores(device: torch.device) -> bool:
    """Return whether a device is an NVIDIA GPU with tensor cores for bf16: an Ampere or newer."""
    return device.type == "cuda" and not torch.version.hip and torch.cuda.get_device_capability(device) >= _AMPERE


def use_gpu_layers(part: Any) -> None:
    """Replace layers of a network on a GPU, and keep its convolution kernels with the channels last."""
    from imagegen_core.diffusion.direct_layers import use_direct_layers  # its classes inherit from those of diffusers

    use_direct_layers(part)
    part.to(memory_format=torch.channels_last)
    for layer in part.modules():
        if type(layer) is torch.nn.GroupNorm and layer.affine:
            layer.__class__ = ChannelsLastGroupNorm
