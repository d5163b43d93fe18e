"""Preview pictures: by a linear map from latents to RGB, fitted to the loaded VAE, or by a tiny VAE."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from imagegen_core.diffusion.decoding import decoded, denormalized, levels, normalized

_SIDE = 64  # the side of a picture for the fit, in pixels
_LATENT_SIDE = 8
_PICTURES = 24
_LARGEST_SIDE = 64  # of the latents that a tiny VAE decodes


class Previewer:
    """Maps latents to pixels, one latent to each pixel.

    The VAE's latents are close to an affine function of their colours. T. A. Vass and others found this, and
    published factors for some checkpoints. Here, a least-squares fit finds the function, with colours that the
    checkpoint's own VAE encoded. So the colours are right for any VAE.
    """

    def __init__(self, vae: Any) -> None:
        """Fit the map to `vae` with 24 pictures of 64 x 64 pixels.

        The VAE encodes gradients of colours. Without an encoder, it decodes random latents.
        """
        if vae.encoder is None:
            generator = torch.Generator("cpu").manual_seed(0)
            shape = (_PICTURES, vae.config.latent_channels, _LATENT_SIDE, _LATENT_SIDE)
            latents = torch.randn(shape, generator=generator).to(vae.device, vae.dtype)
            pictures = vae.decode(denormalized(vae.config, latents)).sample.float().cpu()
        else:
            pictures = torch.from_numpy(_colours()).permute(0, 3, 1, 2) * 2 - 1
            encoded = vae.encode(pictures.to(vae.device, vae.dtype)).latent_dist.mean
            latents = normalized(vae.config, encoded)
        pooled = torch.nn.functional.adaptive_avg_pool2d(pictures, (latents.shape[-2], latents.shape[-1]))
        known = _flat(latents.float().cpu())
        wanted = pooled.permute(0, 2, 3, 1).reshape(-1, 3)
        self._factors = torch.linalg.lstsq(_with_one(known), wanted).solution

    def pixels(self, latents: Tensor) -> npt.NDArray[np.uint8]:
        """Return the colours of latents [1, channels, h, w], as pixels [h, w, 3]."""
        height, width = latents.shape[-2:]
        colours = _with_one(_flat(latents.float().cpu())) @ self._factors
        levels = (colours.reshape(height, width, 3) / 2 + 0.5).clamp(0, 1).mul(255).round()
        return levels.to(torch.uint8).numpy()  # type: ignore[no-any-return]


class TinyPreviewer:
    """Decodes latents with a tiny VAE, up to 512 pixels a side: larger latents are averaged first."""

    def __init__(self, vae: Any) -> None:
        self._vae = vae

    def pixels(self, latents: Tensor) -> npt.NDArray[np.uint8]:
        """Decode latents [1, channels, h, w] to pixels [h', w', 3], with sides of at most 512."""
        shrink = max(1.0, max(latents.shape[-2:]) / _LARGEST_SIDE)
        if shrink > 1:
            height, width = (max(1, round(side / shrink)) for side in latents.shape[-2:])
            latents = torch.nn.functional.adaptive_avg_pool2d(latents, (height, width))
        return levels(decoded(self._vae, latents).nan_to_num())


def _flat(latents: Tensor) -> Tensor:
    return latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])


def _with_one(rows: Tensor) -> Tensor:
    return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)


def _colours() -> npt.NDArray[np.float32]:
    """Return pictures of two colours with a gradient between them, [N, side, side, 3] in 0..1."""
    ends = np.random.default_rng(0).random((_PICTURES, 2, 1, 1, 3), dtype=np.float32)
    share = np.linspace(0, 1, _SIDE, dtype=np.float32)[None, :, None, None]
    faded = ends[:, 0] * (1 - share) + ends[:, 1] * share
    return np.broadcast_to(faded, (_PICTURES, _SIDE, _SIDE, 3)).copy()
