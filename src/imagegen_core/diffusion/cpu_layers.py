"""Layers that compute full-size networks on a CPU with less work.

`use_cpu_layers` replaces layers where it pays. Attention and int8 layers compute each row alone. The other layers leave
it to the engine's proof whether rows share a pass: see `imagegen_core.engine.calibration`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from imagegen_core.diffusion.exponential_attention import ExponentialAttention, is_available
from imagegen_core.diffusion.int8_layers import use_int8
from imagegen_core.diffusion.subpixel_upsampling import SubpixelUpsampling, fits

_WIDE = 256  # channels; narrower networks, such as the demo's, gain nothing
_FEW_PIXELS = 256  # up to this number, oneDNN's reordering of a large weight takes much of a convolution's time
_LARGE = 2**22  # weights; smaller ones are reordered quickly


class PlainWeightConv2d(torch.nn.Conv2d):
    """A convolution in channels last that uses its weight as it is, where oneDNN would reorder the weight."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """See `torch.nn.Conv2d`."""
        rows = input.permute(0, 2, 3, 1)
        if self.kernel_size == (1, 1):
            return self._product(rows)
        if rows.shape[1] * rows.shape[2] > _FEW_PIXELS or self.weight.numel() < _LARGE:
            return functional.conv2d(input, self.weight, self.bias, self.stride, self.padding)
        padded = functional.pad(rows, (0, 0, 1, 1, 1, 1))
        patches = padded.unfold(1, 3, 1).unfold(2, 3, 1).permute(0, 1, 2, 4, 5, 3)
        return self._product(patches.flatten(3))

    def _product(self, lines: Tensor) -> Tensor:
        """Multiply [rows, height, width, inputs] with the weight."""
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        return functional.linear(lines, weight, self.bias).permute(0, 3, 1, 2)


def are_used(device: torch.device, dtype: torch.dtype, *, compiled: bool) -> bool:
    """Return whether a network of `dtype` has channels last and `ExponentialAttention`; a compiler chooses its own."""
    return device.type == "cpu" and dtype == torch.bfloat16 and not compiled and is_available()


def use_cpu_layers(pipe: Any, network: Any, *, int8: bool) -> None:
    """Replace layers of a pipeline on a CPU: of its network and of its VAE.

    Args:
        pipe: The diffusers pipeline with its ``vae``.
        network: Its network for denoising.
        int8: Whether large layers compute in int8.
    """
    from imagegen_core.diffusion.direct_layers import use_direct_layers  # its classes inherit from those of diffusers

    for part in (network, pipe.vae):
        use_direct_layers(part)
    parts = (network, pipe.vae.decoder)
    fast = are_used(torch.device("cpu"), next(network.parameters()).dtype, compiled=False)
    if fast:
        network.to(memory_format=torch.channels_last)
    for part in parts:
        _replace_upsamplers(part)
    if fast:
        for part in parts:
            _replace_attention(part)
        for layer in network.modules():
            if type(layer) is torch.nn.Conv2d and _is_direct(layer):
                layer.__class__ = PlainWeightConv2d
    if int8:
        for part in parts:
            use_int8(part)


def _replace_upsamplers(network: Any) -> None:
    for module in list(network.modules()):
        for index, upsampler in enumerate(getattr(module, "upsamplers", None) or ()):
            if fits(upsampler) and min(upsampler.conv.in_channels, upsampler.conv.out_channels) >= _WIDE:
                module.upsamplers[index] = SubpixelUpsampling(upsampler.conv)


def _replace_attention(network: Any) -> None:
    for layer in network.modules():
        if type(getattr(layer, "processor", None)).__name__ == "AttnProcessor2_0":
            layer.set_processor(ExponentialAttention(layer.processor))


def _is_direct(conv: torch.nn.Conv2d) -> bool:
    """Return whether `PlainWeightConv2d` can compute a convolution."""
    return (conv.kernel_size, conv.stride, conv.padding, conv.groups) in (
        ((3, 3), (1, 1), (1, 1), 1),
        ((1, 1), (1, 1), (0, 0), 1),
    )
