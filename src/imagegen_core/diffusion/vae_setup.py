"""Choose the VAE's precision and memory layout, at load and for good."""

from __future__ import annotations

import logging
from typing import Any

import torch

from imagegen_core.diffusion.construction_lock import undisturbed
from imagegen_core.diffusion.decoding import convert, overflows
from imagegen_core.diffusion.device import DTYPE_NAMES, DTYPES
from imagegen_core.diffusion.gpu_layers import has_tensor_cores
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
        settle_precision(vae, device)


def settle_precision(vae: Any, device: torch.device) -> None:
    """Make an fp16 VAE compute in `wide_dtype` if its config asks for more than fp16, or if it overflows."""
    wide = wide_dtype(device)
    if getattr(vae.config, "force_upcast", False):
        convert(vae, wide)
    elif undisturbed(overflows, vae):
        logger.warning(
            "The VAE overflows in float16: it computes in %s; set VAE_PATH to a VAE that does not overflow, or "
            "IMAGEGEN_VAE_DTYPE to %s",
            DTYPE_NAMES[wide],
            "bf16" if wide == torch.float32 else "fp32",
        )
        convert(vae, wide)


def wide_dtype(device: torch.device) -> torch.dtype:
    """Return the precision of a VAE that overflows in fp16: bf16 on a GPU with tensor cores for it, else fp32.

    There, bf16 takes 0.6 of fp32's time and half its memory. It changes a pixel by 0.4 levels of 255 on average.
    """
    return torch.bfloat16 if has_tensor_cores(device) else torch.float32


def is_channels_last(device: torch.device, settings: Settings) -> bool:
    """Return whether the VAE keeps the channels last in memory: as the settings say, else where it was faster.

    It takes three quarters of the time on a CPU, and half of it on a GPU with tensor cores and `use_gpu_layers`.
    """
    if settings.vae_channels_last is not None:
        return settings.vae_channels_last
    return device.type == "cpu" or has_tensor_cores(device)
