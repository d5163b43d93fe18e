"""Encode pictures with the VAE, in parts, and keep the latest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from imagegen_core.diffusion.decoding import convert, normalized, tiling
from imagegen_core.diffusion.input_values import Pixels
from imagegen_core.diffusion.tiny_vae import is_tiny
from imagegen_core.errors import ImagegenError
from imagegen_core.parts import Parts, completed

_KEPT_BYTES = 32 * 2**20  # of encoded pictures; a picture of 1024x1024 takes 0.5 MB in fp32


class PictureEncoder:
    """Encodes pictures to the moments of their latents: mean and logarithm of the variance."""

    def __init__(self, vae: Any, bring: Callable[[], None]) -> None:
        """Keep the autoencoder.

        Args:
            vae: The autoencoder.
            bring: Brings its weights to the device, from where other networks may displace them between two parts.
        """
        self._vae, self._bring = vae, bring
        self._kept: OrderedDict[tuple[str | None, int | None], Tensor] = OrderedDict()

    def check(self) -> None:
        """Refuse a VAE without an encoder.

        Raises:
            ImagegenError: It has none.
        """
        if getattr(self._vae, "encoder", None) is None:
            raise ImagegenError("This checkpoint's VAE has no encoder: set VAE_PATH to a whole VAE, or give no image")

    def encode(self, pixels: Pixels, tile: int | None) -> Parts[Tensor]:
        """Encode a picture, one layer of the network at a time.

        Args:
            pixels: The picture.
            tile: The side of the tiles in pixels; None encodes in one piece.

        Returns:
            The moments [1, 2 * channels, height / 8, width / 8], in the VAE's dtype; a tiny VAE's latents.

        Raises:
            ImagegenError: The VAE has no encoder, or the moments are not finite even in fp32.
        """
        key = (pixels.digest, tile)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        moments = yield from self._encoded(pixels.values, tile)
        if pixels.digest is not None:
            self._kept[key] = moments
            while sum(kept.nbytes for kept in self._kept.values()) > _KEPT_BYTES:
                self._kept.popitem(last=False)
        return moments

    def sample(self, moments: Tensor, generator: torch.Generator) -> Tensor:
        """Draw latents from the moments, in the network's scale, [1, channels, height / 8, width / 8]."""
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        latents = moments if is_tiny(self._vae) else DiagonalGaussianDistribution(moments).sample(generator)
        return normalized(self._vae.config, latents).contiguous()

    def skip(self, shape: torch.Size, generator: torch.Generator) -> None:
        """Draw the random numbers of `sample` for latents of this shape, and drop them."""
        if not is_tiny(self._vae):
            torch.randn(shape, generator=generator, dtype=self._vae.encoder.conv_in.weight.dtype)

    def mode(self, moments: Tensor) -> Tensor:
        """Return the most likely latents, in the VAE's scale."""
        return (moments if is_tiny(self._vae) else moments.chunk(2, dim=1)[0]).contiguous()

    def _encoded(self, pixels: Tensor, tile: int | None) -> Parts[Tensor]:
        vae = self._vae
        self.check()
        self._bring()
        if is_tiny(vae):
            weight = next(vae.encoder.parameters())
            return vae.encode(pixels.to(weight.device, weight.dtype)).latents  # type: ignore[no-any-return]
        dtype = vae.encoder.conv_in.weight.dtype
        moments = yield from self._parts(pixels, tile)
        if not moments.isfinite().all() and dtype != torch.float32:
            convert(vae, torch.float32)
            try:
                moments = completed(self._parts(pixels, tile))  # at once: others decode with this VAE, too
            finally:
                convert(vae, dtype)
        if not moments.isfinite().all():
            raise ImagegenError(
                "The VAE computed latents that are not finite (NaN) from the image: set VAE_PATH to another VAE"
            )
        return moments

    def _parts(self, pixels: Tensor, tile: int | None) -> Parts[Tensor]:
        """Compute what ``vae.encode`` computes, and yield between the encoder's layers."""
        vae, encoder = self._vae, self._vae.encoder
        first = encoder.conv_in.weight
        hidden = pixels.to(first.device, first.dtype)
        if tile is not None and hasattr(vae, "tile_latent_min_size"):
            with tiling(vae, tile):
                distribution: Any = vae.encode(hidden).latent_dist
            yield
            return distribution.parameters  # type: ignore[no-any-return]
        for layer in _layers(encoder):
            hidden = layer(hidden)
            yield
            self._bring()
        return vae.quant_conv(hidden) if vae.quant_conv is not None else hidden


def _layers(encoder: Any) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield the layers of diffusers' encoder in their order; an ordinary block counts as its own layers."""
    from diffusers.models.unets.unet_2d_blocks import DownEncoderBlock2D

    yield encoder.conv_in
    for block in encoder.down_blocks:
        if type(block) is DownEncoderBlock2D:
            yield from (partial(resnet, temb=None) for resnet in block.resnets)
            yield from block.downsamplers or ()
        else:
            yield block
    yield encoder.mid_block
    yield lambda hidden: encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(hidden)))
