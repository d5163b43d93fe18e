"""From final latents to pixels, and to the small fingerprint that travels with a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_POOLED_SIDE = 8


def decode(vae: Any, latents: Tensor) -> npt.NDArray[np.uint8]:
    """Decode latents with a diffusers ``AutoencoderKL``, in the VAE's own dtype.

    Args:
        vae: The autoencoder.
        latents: Final latents [1, channels, height / 8, width / 8], scaled as the UNet has them.

    Returns:
        Pixels [height, width, 3].
    """
    pixels = vae.decode(_unscaled(vae.config, latents).to(vae.dtype), return_dict=False)[0][0]
    levels = (pixels.float() / 2 + 0.5).clamp(0, 1).mul(255).round()
    return levels.to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()  # type: ignore[no-any-return]


def pool(latents: Tensor) -> bytes:
    """Average latents [1, 4, h, w] in float32 down to 8×8, as 512 bytes of little-endian float16, NCHW."""
    pooled = torch.nn.functional.adaptive_avg_pool2d(latents.float(), _POOLED_SIDE)
    return pooled.to(torch.float16).cpu().numpy().astype("<f2").tobytes()


def _unscaled(config: Any, latents: Tensor) -> Tensor:
    scale: float = config.scaling_factor
    means, stds = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if means is None or stds is None:
        return latents / scale
    mean, std = (latents.new_tensor(values).view(1, -1, 1, 1) for values in (means, stds))
    return latents * std / scale + mean
