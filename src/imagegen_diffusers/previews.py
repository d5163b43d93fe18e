"""Previews of any pipeline's latents: a linear map to RGB, fitted to its decoder."""

from __future__ import annotations

import io
from functools import cached_property
from inspect import signature
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from imagegen_core import Size

_SIDE = 8  # latents along each side of a picture for the fit
_PICTURES = 24
_UNPACK = ["latents", "height", "width", "vae_scale_factor"]


def as_picture(pipe: Any, latents: Tensor, size: Size) -> Tensor | None:
    """Return a pipeline's latents as [1, channels, h, w]; None if their order is unknown.

    Some pipelines pack 2x2 latents into a token, [1, tokens, 4 * channels], and have a function to unpack them. VAEs
    for videos have latents [1, channels, 1, h, w].
    """
    unpack = getattr(pipe, "_unpack_latents", None)
    if latents.ndim == 3 and unpack and [*signature(unpack).parameters] == _UNPACK:  # noqa: PLR2004 - packed
        latents = unpack(latents, size.height, size.width, pipe.vae_scale_factor)
    if latents.ndim == 5 and latents.shape[2] == 1:  # noqa: PLR2004 - of a video
        latents = latents[:, :, 0]
    return latents if latents.ndim == 4 else None  # noqa: PLR2004 - of a picture


class Previewer:
    """Maps latents to pixels, one latent to each pixel.

    A decoder's latents are close to an affine function of their colours, as T. A. Vass and others found for SD1.5 and
    SDXL. A least-squares fit to decoded random latents finds this function at the first preview.
    """

    def __init__(self, decoder: Any) -> None:
        """Preview the latents of a diffusers VAE, such as ``AutoencoderKL``, ``AutoencoderDC`` or ``VQModel``."""
        self._decoder = decoder
        self.channels: int = getattr(decoder.config, "latent_channels", None) or decoder.config.z_dim

    def png(self, latents: Tensor) -> bytes:
        """Return latents [1, channels, h, w] as a PNG of w x h pixels."""
        values = latents[0].float().cpu()
        colours = _with_one(values.flatten(1).T) @ self._factors
        levels = (colours / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
        file = io.BytesIO()
        Image.fromarray(levels.reshape(*values.shape[1:], 3).numpy()).save(file, "PNG")
        return file.getvalue()

    @cached_property
    @torch.no_grad()
    def _factors(self) -> Tensor:
        shape = (_PICTURES, self.channels, _SIDE, _SIDE)
        latents = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(0))
        pictures = self._decoded(latents.to(self._decoder.device, self._decoder.dtype)).float().cpu()
        colours = torch.nn.functional.adaptive_avg_pool2d(pictures, _SIDE)
        known = _with_one(latents.permute(0, 2, 3, 1).reshape(-1, self.channels))
        solution: Tensor = torch.linalg.lstsq(known, colours.permute(0, 2, 3, 1).reshape(-1, 3)).solution
        return solution

    def _decoded(self, latents: Tensor) -> Tensor:
        """Decode latents, in the scale that the denoising network takes, to RGB [N, 3, height, width] in -1..1."""
        config = self._decoder.config
        mean, std = (getattr(config, name, None) for name in ("latents_mean", "latents_std"))
        if mean is not None and std is not None:
            latents = latents * latents.new_tensor(std)[:, None, None] + latents.new_tensor(mean)[:, None, None]
        else:
            latents = latents / (getattr(config, "scaling_factor", None) or 1.0)
            latents = latents + (getattr(config, "shift_factor", None) or 0.0)
        of_videos = hasattr(config, "z_dim")
        options = {"force_not_quantize": True} if "num_vq_embeddings" in config else {}
        decoded = self._decoder.decode(latents[:, :, None] if of_videos else latents, return_dict=False, **options)[0]
        return decoded[:, :3, 0] if of_videos else decoded[:, :3]  # type: ignore[no-any-return]


def _with_one(rows: Tensor) -> Tensor:
    return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
