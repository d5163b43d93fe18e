"""Tiny random networks of spandrel's architectures, in the format of their own training programs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from imagegen_core.diffusion.torchvision import make_torchvision_importable


def _span(scale: int) -> nn.Module:
    from spandrel.architectures.SPAN import SPAN

    return SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=scale)


def _swinir(scale: int, channels: int = 3, upsampler: str = "pixelshuffledirect") -> nn.Module:
    from spandrel.architectures.SwinIR import SwinIR

    return SwinIR(
        img_size=16,
        in_chans=channels,
        embed_dim=8,
        depths=[2],
        num_heads=[2],
        window_size=8,
        mlp_ratio=2,
        upscale=scale,
        upsampler=upsampler,
    )


def _dat(scale: int) -> nn.Module:
    from spandrel.architectures.DAT import DAT

    return DAT(
        img_size=16,
        embed_dim=16,
        split_size=[2, 4],
        depth=[2],
        num_heads=[2],
        expansion_factor=2.0,
        upscale=scale,
        upsampler="pixelshuffledirect",
    )


def _omnisr(scale: int) -> nn.Module:
    from spandrel.architectures.OmniSR import OmniSR

    return OmniSR(num_feat=16, block_num=1, window_size=8, res_num=1, up_scale=scale)


def _plksr(scale: int) -> nn.Module:
    from spandrel.architectures.PLKSR import RealPLKSR

    return RealPLKSR(dim=16, n_blocks=2, upscaling_factor=scale, kernel_size=5)


def _dncnn(channels: int) -> nn.Module:
    from spandrel.architectures.DnCNN import DnCNN

    return DnCNN(in_nc=channels, out_nc=channels, nc=8, nb=17, act_mode="R")


# By name: the network's factory, its scale, and its number of input channels.
ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "SPAN x2": (lambda: _span(2), 2, 3),
    "SPAN x4": (lambda: _span(4), 4, 3),
    "SwinIR x2": (lambda: _swinir(2), 2, 3),
    "SwinIR, grey, x3": (lambda: _swinir(3, channels=1), 3, 1),
    "SwinIR, grey, x1": (lambda: _swinir(1, channels=1, upsampler=""), 1, 1),
    "DAT x2": (lambda: _dat(2), 2, 3),
    "OmniSR x4": (lambda: _omnisr(4), 4, 3),
    "RealPLKSR x2": (lambda: _plksr(2), 2, 3),
    "DnCNN, grey, x1": (lambda: _dncnn(1), 1, 1),
    "DnCNN x1": (lambda: _dncnn(3), 1, 3),
}


def network(name: str) -> nn.Module:
    """Return a network of `ARCHITECTURES`, ready to compute, with the same random weights each time."""
    make_torchvision_importable()
    torch.manual_seed(7)
    module = ARCHITECTURES[name][0]().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.1)  # the initial layers of many networks do nothing
    return module
