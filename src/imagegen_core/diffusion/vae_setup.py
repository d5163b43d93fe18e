"""Choose the VAE's precision and memory layout, at load and for good."""

from __future__ import annotations

import logging
from typing import Any

import torch

from imagegen_core.diffusion.construction_lock import undisturbed
from imagegen_core.diffusion.decoding import convert, overflows
from imagegen_core.diffusion.device import DTYPES
from imagegen_core.settings import Settings

logger = logging.getLogger(__name__)


def set_up_vae(vae: Any, device: torch.device, dtype: torch.dtype, settings: Settings) -> None:
    """Give a VAE the precision and the layout of the settings, else those that suit the device.

    The decision is made at load, so that no later picture changes it.

    Args:
        vae: The autoencoder, on its device.
        device: The device.
        dtype: The precision of the model, and of the VAE's weights so far.
        settings: The settings; `vae_dtype` and `vae_channels_last` override the rules.
    """
    if is_channels_last(device, settings):
        vae.to(memory_format=torch.channels_last)
    if settings.vae_dtype is not None:
        convert(vae, DTYPES[settings.vae_dtype])
        if settings.vae_dtype == "fp16" and undisturbed(overflows, vae):
            logger.warning(
                "The VAE overflows in float16, as %s=fp16 asks: such pictures are decoded a second time, in fp32; set "
                "it to bf16 or fp32",
                settings.source("vae_dtype"),
            )
    elif dtype == torch.float16:
        settle_precision(vae)


def settle_precision(vae: Any) -> None:
    """Make an fp16 VAE compute in fp32 if its config asks for it, or if it overflows."""
    if getattr(vae.config, "force_upcast", False):
        convert(vae, torch.float32)
    elif undisturbed(overflows, vae):
        logger.warning(
            "The VAE overflows in float16: it computes in fp32; set VAE_PATH to a VAE that does not overflow, or "
            "IMAGEGEN_VAE_DTYPE to bf16"
        )
        convert(vae, torch.float32)


def is_channels_last(device: torch.device, settings: Settings) -> bool:
    """Return whether the VAE keeps the channels last in memory: as the settings say, else on a CPU alone.

    On a CPU, its convolutions at the picture's full size take three quarters of the time with this layout. On a GPU it
    was not measured: tensor cores prefer it, but torch's group norm there copies each input back.
    """
    return device.type == "cpu" if settings.vae_channels_last is None else settings.vae_channels_last
