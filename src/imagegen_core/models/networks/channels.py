"""The UNets that take more than latents: they draw from pictures, which is not done here."""

from __future__ import annotations

from pathlib import Path

from imagegen_core.errors import ModelLoadError

LATENT_CHANNELS = 4
"""The channels of latents, where no autoencoder says."""

# What a UNet is for, by its channels beyond the latents' own.
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
        channels: What its UNet takes.
        latent_channels: What its autoencoder's latents have.

    Raises:
        ModelLoadError: It takes other channels than the latents'.
    """
    if channels == latent_channels:
        return
    kind = _EXTRA.get(channels - latent_channels, "no text-to-image model")
    raise ModelLoadError(
        f"{path} is {kind}: its UNet takes {channels} channels where latents have {latent_channels}; such models are "
        "not drawn with yet, so name a text-to-image checkpoint"
    )
