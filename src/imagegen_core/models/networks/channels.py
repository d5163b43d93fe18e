"""The channels of a UNet beside latents: a picture, or a picture and a mask; others are refused."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from imagegen_core.errors import ModelLoadError

LATENT_CHANNELS = 4
"""The channels of latents, if no autoencoder states them."""


class Extra(Enum):
    """The channels that a network takes beside noisy latents."""

    NONE = "nothing"
    PICTURE = "the latents of a picture to edit"  # https://arxiv.org/abs/2211.09800
    MASK = "a mask and the latents of a picture around it"

    @property
    def lacking(self) -> tuple[str, ...]:
        """The fields of `GenerateRequest` that a network with these channels does not take."""
        if self is Extra.NONE:
            return ("image_guidance_scale",)
        if self is Extra.MASK:
            return ("image_guidance_scale", "hires")
        return ("mask", "inpaint", "outpaint", "hires")


# The purpose of an unsupported UNet, by its number of channels beyond the latents' own.
_UNSUPPORTED = {
    1: "a depth-to-image model, and wants a depth map",
    3: "an upscaling model, and wants a small picture",
}


def extra_channels(channels: int, latent_channels: int) -> Extra | None:
    """Return what a UNet takes beside latents; None if it is nothing known.

    Args:
        channels: The number of channels that the UNet takes.
        latent_channels: The number of channels of latents.
    """
    known = {0: Extra.NONE, latent_channels: Extra.PICTURE, latent_channels + 1: Extra.MASK}
    return known.get(channels - latent_channels)


def check_channels(path: Path, channels: int, latent_channels: int) -> None:
    """Check that a UNet draws from a prompt, or from a prompt and a picture.

    Args:
        path: The checkpoint.
        channels: The number of channels that its UNet takes.
        latent_channels: The number of channels of its autoencoder's latents.

    Raises:
        ModelLoadError: It takes other channels.
    """
    if extra_channels(channels, latent_channels) is not None:
        return
    kind = _UNSUPPORTED.get(channels - latent_channels, "no text-to-image model")
    raise ModelLoadError(
        f"{path} is {kind}: its UNet takes {channels} channels where latents have {latent_channels}; such models are "
        "not drawn with yet, so name a text-to-image checkpoint"
    )
