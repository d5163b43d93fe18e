"""Decode final latents to pixels, and pool them to a small fingerprint for the picture's file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from imagegen_core.diffusion.memory import check_decoding_fits, memory_errors
from imagegen_core.errors import ImagegenError
from imagegen_core.request import Size

logger = logging.getLogger(__name__)

_POOLED_SIDE = 8
_PROBE_SIDE = 16  # the side of the test latents for a VAE


def decode_picture(
    vae: Any, latents: Tensor, size: Size, device: torch.device, tile: int | None
) -> npt.NDArray[np.uint8]:
    """Decode as `decode` does, in one piece or in tiles as the numerics plan says.

    Args:
        vae: The autoencoder.
        latents: See `decode`.
        size: The picture's size.
        device: The autoencoder's device.
        tile: The side of the tiles in pixels; None decodes in one piece.

    Raises:
        OutOfMemoryError: The memory is too small. Another way to decode would give other pixels.
    """
    check_decoding_fits(vae, size, piece(size, tile), device)
    with _tiling(vae, tile), memory_errors(size):
        return decode(vae, latents)


def piece(size: Size, tile: int | None) -> Size:
    """Return the size of the part that is decoded at once: a tile, or the whole picture."""
    return size if tile is None else Size(min(size.width, tile), min(size.height, tile))


@contextmanager
def _tiling(vae: Any, tile: int | None) -> Iterator[None]:
    """Decode in tiles within the context; a VAE without tiles decodes in one piece."""
    if tile is None or not hasattr(vae, "tile_latent_min_size"):
        yield
        return
    vae.tile_sample_min_size = tile
    vae.tile_latent_min_size = tile // 2 ** (len(vae.config.block_out_channels) - 1)
    vae.enable_tiling()
    try:
        yield
    finally:
        vae.disable_tiling()


def decode(vae: Any, latents: Tensor) -> npt.NDArray[np.uint8]:
    """Decode latents with a diffusers ``AutoencoderKL`` or ``AutoencoderTiny``, in fp32 if this picture overflows.

    Usually the VAE's dtype counts. Only this picture is decoded in fp32: afterwards the VAE has its old dtype again.

    Args:
        vae: The autoencoder.
        latents: Final latents [1, channels, height / 8, width / 8], in the network's scale.

    Returns:
        Pixels [height, width, 3].

    Raises:
        ImagegenError: The pixels are not finite even in fp32.
    """
    pixels = decoded(vae, latents)
    dtype = _dtype(vae)
    if not pixels.isfinite().all() and dtype != torch.float32 and latents.isfinite().all():
        logger.warning(
            "A picture overflows the VAE in %s: decoding it in fp32, which takes longer",
            str(dtype).removeprefix("torch."),
        )
        convert(vae, torch.float32)
        try:
            pixels = decoded(vae, latents)
        finally:
            convert(vae, dtype)
    if not pixels.isfinite().all():
        raise ImagegenError(
            "The VAE computed pixels that are not finite (NaN) from this picture's latents: lower guidance_scale, or "
            "set VAE_PATH to another VAE"
        )
    return levels(pixels)


def levels(pixels: Tensor) -> npt.NDArray[np.uint8]:
    """Convert pixels [3, height, width] in -1..1 to [height, width, 3] in 0..255."""
    rounded = (pixels.float() / 2 + 0.5).clamp(0, 1).mul(255).round()
    return rounded.to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()


@torch.inference_mode()
def overflows(vae: Any) -> bool:
    """Return whether an autoencoder overflows in its own dtype with latents like those of pictures.

    The latents are the same at each call: normally distributed like a picture's, once with the usual spread and once
    with twice that spread.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    latents = torch.randn((1, vae.config.latent_channels, _PROBE_SIDE, _PROBE_SIDE), generator=generator)
    probe = latents.to(next(vae.parameters()).device)
    return not all(decoded(vae, spread * probe).isfinite().all() for spread in (1, 2))


def pool(latents: Tensor) -> bytes:
    """Average latents [1, channels, h, w] in float32 to 8×8, as little-endian float16, NCHW: 128 bytes a channel."""
    pooled = torch.nn.functional.adaptive_avg_pool2d(latents.float(), _POOLED_SIDE)
    return pooled.to(torch.float16).cpu().numpy().astype("<f2").tobytes()


def convert(vae: Any, dtype: torch.dtype) -> None:
    """Make an autoencoder compute in another precision."""
    # diffusers' own `to` warns about modules to keep in fp32, even if there are none.
    torch.nn.Module.to(vae, dtype)


def decoded(vae: Any, latents: Tensor) -> Tensor:
    """Decode latents [1, channels, h, w] in the network's scale, in the VAE's dtype, to pixels [3, height, width]."""
    image: Tensor = vae.decode(denormalized(vae.config, latents.to(_dtype(vae))), return_dict=False)[0][0]
    return image


def _dtype(vae: Any) -> torch.dtype:
    """Return the dtype of the decoder; the VAE's own `dtype` searches all its layers and takes a millisecond."""
    return next(vae.decoder.parameters()).dtype  # type: ignore[no-any-return]


def denormalized(config: Any, latents: Tensor) -> Tensor:
    """Convert latents from the network's scale to the autoencoder's."""
    moments = _moments(config, latents)
    if moments is None:
        scaled = latents / config.scaling_factor
        shift = getattr(config, "shift_factor", None)
        return scaled + shift if shift else scaled  # type: ignore[no-any-return]
    mean, std = moments
    return latents * std / config.scaling_factor + mean  # type: ignore[no-any-return]


def normalized(config: Any, latents: Tensor) -> Tensor:
    """Convert latents from the autoencoder's scale to the network's."""
    moments = _moments(config, latents)
    if moments is None:
        return (latents - (getattr(config, "shift_factor", None) or 0)) * config.scaling_factor  # type: ignore[no-any-return]
    mean, std = moments
    return (latents - mean) / std * config.scaling_factor  # type: ignore[no-any-return]


def _moments(config: Any, latents: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return each channel's mean and standard deviation, or None if the config has none."""
    means, stds = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if means is None or stds is None:
        return None
    return latents.new_tensor(means).view(1, -1, 1, 1), latents.new_tensor(stds).view(1, -1, 1, 1)
