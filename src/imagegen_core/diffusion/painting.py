"""Extensions for input pictures: the blend around a mask, and further channels for the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from imagegen_core.diffusion.extension import Extension, LoadedModel
from imagegen_core.diffusion.starting_point import Painting
from imagegen_core.models.networks.channels import Extra, extra_channels

if TYPE_CHECKING:
    from imagegen_core.diffusion.denoising import Denoising
    from imagegen_core.diffusion.network_inputs import NetworkInputs

_IMAGE_GUIDANCE = 1.5  # the default of diffusers' pipelines


class MaskedBlending(Extension):
    """Keep a picture around a mask, by the rule of diffusers' inpainting with ordinary checkpoints.

    After each step, the latents around the mask are the original's, as noisy as the next step expects.
    """

    name = "masked blending"
    order = 900  # after all others have changed the latents

    def begin(self, state: Denoising) -> Painting | None:
        """Return the parts that are not drawn."""
        return state.start.painting if state.start else None

    def after_step(self, state: Denoising, part: Painting) -> None:
        """Put the original back around the mask."""
        timestep = None if state.is_final else state.timestep
        state.latents = part.blended(state.scheduler, state.latents, timestep)


class PictureChannels(Extension):
    """Give a picture to a network that takes more channels than latents."""

    name = "picture channels"
    order = -900  # before guidance counts the conditionings

    def begin(self, state: Denoising) -> Tensor | None:
        """Return the channels of each row; for instruct-pix2pix with guidance, also add a conditioning.

        Its rows are the negative prompt without the picture, the negative prompt with it, and the prompt with it.
        """
        channels = state.start.channels if state.start else None
        if channels is None:
            return None
        if extra_of(self.model) is Extra.PICTURE and len(state.conditionings) > 1:
            negative, prompt = state.conditionings
            state.conditionings = (negative, negative, prompt)
            return torch.cat([torch.zeros_like(channels), channels, channels])
        return channels.expand(state.rows, *channels.shape[1:])

    def before_network(self, inputs: NetworkInputs) -> None:
        """Add the channels to the latents."""
        rows, row = [], 0
        while row < len(inputs.states):
            rows.append(inputs.states[row].parts[self])
            row += len(rows[-1])
        # Rows that only fill up the pass may have any channels.
        channels = torch.cat(rows)[: len(inputs.latents)]
        inputs.latents = torch.cat([inputs.latents, channels], dim=1)


class _Scales(NamedTuple):
    """A request's guidance scales."""

    prompt: float
    image: float


class PictureGuidance(Extension):
    """Guide by the prompt and by the picture: https://arxiv.org/abs/2211.09800, section 3.2.1."""

    name = "guidance"
    order = 100

    def begin(self, state: Denoising) -> _Scales | None:
        """Return the scales of a request with guidance."""
        if len(state.conditionings) == 1:
            return None
        image = state.request.image_guidance_scale
        return _Scales(state.request.guidance_scale, _IMAGE_GUIDANCE if image is None else image)

    def combine(self, state: Denoising, part: _Scales, prediction: Tensor) -> Tensor:  # noqa: ARG002 - in general
        """Return the guided prediction [1, ...] from those without a picture, with it, and with the prompt."""
        nothing, picture, prompt = prediction.chunk(3)
        return nothing + part.prompt * (prompt - picture) + part.image * (picture - nothing)


def extra_of(model: LoadedModel) -> Extra:
    """Return what a worker's network takes beside latents."""
    channels = getattr(model.network.config, "in_channels", None)
    latent_channels = model.pipe.vae.config.latent_channels
    if channels is None or model.family.denoiser != "unet":
        return Extra.NONE
    return extra_channels(channels, latent_channels) or Extra.NONE
