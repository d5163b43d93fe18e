"""Make starting points: from noise alone, or from an input picture.

The draws from the request's generator follow diffusers' pipelines: the picture's latents, the noise, the latents of the
picture without its masked part, and then the steps.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from imagegen_core.diffusion.decoding import piece
from imagegen_core.diffusion.input_values import InputValues, Pixels
from imagegen_core.diffusion.memory import check_encoding_fits, memory_errors
from imagegen_core.diffusion.picture_encoder import PictureEncoder
from imagegen_core.diffusion.starting_point import (
    Painting,
    StartingPoint,
    enlarged,
    first_step,
    noised,
    shrunk_mask,
    skip_steps,
)
from imagegen_core.errors import InvalidRequestError, PictureError
from imagegen_core.models.networks.channels import Extra
from imagegen_core.numerics import NumericsPlan
from imagegen_core.parts import Parts, awaited
from imagegen_core.request import ResolvedRequest

_THREADS = 2
_STRENGTH = 0.8  # the default with an image; with a mask it is 1


class StartingPoints:
    """Makes the starting points of one worker's requests."""

    def __init__(
        self, vae: Any, bring: Callable[[], None], extra: Extra, device: torch.device, dtype: torch.dtype
    ) -> None:
        """Prepare for a model.

        Args:
            vae: The autoencoder.
            bring: Brings the autoencoder's weights to the device.
            extra: The channels that the network takes beside latents.
            device: The network's device.
            dtype: The precision of the network.
        """
        self._vae, self._extra = vae, extra
        self._device, self._dtype = device, dtype
        self._encoder = PictureEncoder(vae, bring)

    @property
    def takes_pictures(self) -> bool:
        """Whether the network takes a picture beside latents."""
        return self._extra is not Extra.NONE

    @property
    def lacking(self) -> tuple[str, ...]:
        """The fields of requests that the network does not take."""
        return self._extra.lacking

    def prepare(self, request: ResolvedRequest) -> Future[InputValues] | None:
        """Prepare a request's pictures on another thread, which may take longer than a step of others.

        Returns:
            The pictures for `begin`; None if the drawing begins with noise and takes no picture.

        Raises:
            InvalidRequestError: The checkpoint cannot draw with a field of the request.
        """
        if request.image is None and self._extra is Extra.NONE:
            return None
        self._check(request)
        masks = self._extra is Extra.MASK
        begins = not (masks and self._strength(request) == 1.0)
        return self._threads.submit(InputValues.of, request, begins=begins, sees=masks)

    def begin(
        self,
        request: ResolvedRequest,
        pictures: Future[InputValues] | None,
        scheduler: Any,
        generator: torch.Generator,
        noise: Callable[[], Tensor],
        numerics: NumericsPlan,
        *,
        flows: bool = False,
    ) -> Parts[StartingPoint]:
        """Make the starting point of a request, in parts.

        Args:
            request: The request.
            pictures: The result of `prepare`.
            scheduler: Its scheduler with its timesteps set.
            generator: The generator for all noise of this picture.
            noise: Draws the first noise, before the scheduler scales it.
            numerics: The numerics plan, for the tiles of the VAE.
            flows: Whether the network is of flow matching.

        Raises:
            InvalidRequestError: A picture is damaged, or the mask is empty.
            OutOfMemoryError: The memory is too small to encode the picture.
        """
        if pictures is None:
            return StartingPoint(_scaled(noise(), scheduler))
        values = yield from _awaited(pictures, request)
        masks, edits = self._extra is Extra.MASK, self._extra is Extra.PICTURE
        canvas, strength = values.canvas, self._strength(request)
        first = skip_steps(scheduler, first_step(request.steps, strength, rounds_up=flows))
        paints = canvas is not None and canvas.mask is not None
        pure = (paints or masks or edits) and strength == 1.0  # diffusers' inpainting begins with noise alone
        latents = None
        if values.image is not None and not (edits and pure):
            latents = yield from self._latents(values.image, request, generator, numerics)
        drawn = noise()
        shrunk = shrunk_mask(values.mask, drawn.shape).to(self._device, self._dtype)
        if pure or latents is None:
            started = _scaled(drawn, scheduler)
        else:
            content = _filled(latents, drawn, shrunk, request.inpaint.fill) if paints else latents
            started = noised(scheduler, content, drawn, scheduler.timesteps[first])
        if edits:
            seen = torch.zeros_like(drawn)
            if values.image is not None:
                seen = yield from self._most_likely(values.image, numerics)
            return StartingPoint(started, first, canvas, None, seen)
        if values.around is not None:
            around = yield from self.encoded(values.around, generator, numerics)
            return StartingPoint(started, first, canvas, None, torch.cat([shrunk, around], dim=1))
        if not paints or latents is None:
            return StartingPoint(started, first, canvas)
        self._encoder.skip(drawn.shape, generator)  # diffusers draws the masked picture's latents, and drops them
        return StartingPoint(started, first, canvas, Painting(shrunk, latents, drawn))

    def encoded(self, pixels: Pixels, generator: torch.Generator, numerics: NumericsPlan) -> Parts[Tensor]:
        """Encode a picture, and draw its latents from the generator, in parts.

        Args:
            pixels: The picture; its hash says whether the encoding is kept.
            generator: The generator for all noise of the picture.
            numerics: The numerics plan, for the tiles of the VAE.

        Returns:
            Latents in the network's scale and precision, [1, channels, height / 8, width / 8].

        Raises:
            ImagegenError: The VAE has no encoder, or its results are not finite.
            OutOfMemoryError: The memory is too small.
        """
        moments = yield from self._moments(pixels, numerics)
        return self._encoder.sample(moments, generator).to(self._device, self._dtype)

    def check_encodes(self) -> None:
        """Refuse a VAE without an encoder.

        Raises:
            ImagegenError: It has none.
        """
        self._encoder.check()

    def _check(self, request: ResolvedRequest) -> None:
        """Refuse fields that belong to other checkpoints."""
        if self._extra is not Extra.PICTURE:
            if request.image_guidance_scale is not None:
                raise InvalidRequestError(
                    f"Invalid image_guidance_scale {request.image_guidance_scale:g}: only an instruct-pix2pix "
                    "checkpoint takes it, and this is none; leave it out",
                    "image_guidance_scale",
                )
            return
        given = {
            "mask": request.mask is not None,
            "outpaint": bool(request.outpaint),
            "resize": request.resize == "latent",
        }
        if wrong := [name for name, is_given in given.items() if is_given]:
            raise InvalidRequestError(
                f"Invalid {wrong[0]}: an instruct-pix2pix checkpoint draws the whole image; leave it out",
                wrong[0],
            )

    def _strength(self, request: ResolvedRequest) -> float:
        """Return a request's strength; the defaults are those of diffusers' pipelines of UNets."""
        if request.strength is not None:
            return request.strength
        paints = request.mask is not None or bool(request.outpaint)
        return 1.0 if request.image is None or paints or self._extra is Extra.PICTURE else _STRENGTH

    def _latents(
        self, image: Pixels, request: ResolvedRequest, generator: torch.Generator, numerics: NumericsPlan
    ) -> Parts[Tensor]:
        """Encode the picture; with the resize ``latent``, at its own size."""
        latents = yield from self.encoded(image, generator, numerics)
        if image.size == request.size:
            return latents
        reduction = image.size.height // latents.shape[-2]
        sides = (request.size.height // reduction, request.size.width // reduction)
        return enlarged(latents, sides)

    def _moments(self, pixels: Pixels, numerics: NumericsPlan) -> Parts[Tensor]:
        size = pixels.size
        tile = numerics.tile_of(size)
        check_encoding_fits(self._vae, size, piece(size, tile), self._device)
        with memory_errors(size):
            return (yield from self._encoder.encode(pixels, tile))

    def _most_likely(self, image: Pixels, numerics: NumericsPlan) -> Parts[Tensor]:
        """Return the picture's most likely latents, which an instruct-pix2pix network sees."""
        moments = yield from self._moments(image, numerics)
        return self._encoder.mode(moments).to(self._device, self._dtype)

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_THREADS, thread_name_prefix="imagegen-input")


def _awaited(pictures: Future[InputValues], request: ResolvedRequest) -> Parts[InputValues]:
    """Wait for the prepared pictures; a damaged picture is an error of its field."""
    try:
        return (yield from awaited(pictures))
    except PictureError as error:
        mask = request.mask is not None and str(error).partition(":")[0].endswith(request.mask.name)
        raise InvalidRequestError(str(error), "mask" if mask else "image") from error


def _scaled(noise: Tensor, scheduler: Any) -> Tensor:
    """Return the first noise at the scheduler's scale; flow matching begins with plain noise."""
    return noise * scheduler.init_noise_sigma if hasattr(scheduler, "init_noise_sigma") else noise


def _filled(latents: Tensor, noise: Tensor, mask: Tensor, fill: str) -> Tensor:
    """Return latents with noise or zeros in the masked part, for the fills of these names."""
    if fill not in ("noise", "zeros"):
        return latents
    return latents * (1 - mask) + (noise if fill == "noise" else torch.zeros_like(noise)) * mask
