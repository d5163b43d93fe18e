"""Refuse UNets that take more than latents: they need an unsupported input picture."""

from __future__ import annotations

from pathlib import Path

from imagegen_core.errors import ModelLoadError

LATENT_CHANNELS = 4
"""The channels of latents, if no autoencoder states them."""

# The purpose of a UNet, by its number of channels beyond the latents' own.
_EXTRA = {
    1: "a depth-to-image model, and wants a depth map",
    3: "an upscaling model, and wants a small picture",
    4: "an instruct-pix2pix model, and wants a picture to edit",
    5: "an inpainting model, and wants a mask and a picture",
}


def check_channels(path: Path, channels: int, latent_channels: int) -> None:
    """Check that a UNet draws from a prompt alone.

    Args:
        path: The checkpoint.
        channels: The number of channels that its UNet takes.
        latent_channels: The number of channels of its autoencoder's latents.

    Raises:
        ModelLoadError: The two numbers differ.
    """
    if channels == latent_channels:
        return
    kind = _EXTRA.get(channels - latent_channels, "no text-to-image model")
    raise ModelLoadError(
        f"{path} is {kind}: its UNet takes {channels} channels where latents have {latent_channels}; such models are "
        "not drawn with yet, so name a text-to-image checkpoint"
    )
