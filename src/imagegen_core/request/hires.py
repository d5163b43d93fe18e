"""Hires fix: a second drawing at a larger size, from the first one's latents or picture."""

from __future__ import annotations

from typing import Self

from imagegen_core.errors import InvalidRequestError
from imagegen_core.request.checks import number, shown, text, whole_number
from imagegen_core.request.picture_options import Options
from imagegen_core.request.size import VAE_REDUCTION, Size

MAX_SCALE = 8.0
LATENT = "latent"
"""The name of enlarging latents, beside the names of upscalers."""


class HiresOptions(Options):
    """A second stage at a larger size; `scale` or `size` turns it on.

    The latents of the first stage are enlarged bilinearly, get noise, and are denoised again. With an upscaler, the
    first stage's picture is enlarged instead, and encoded again.

    Attributes:
        scale: The factor of both sides, 1 to 8; the sides are rounded down to multiples of 8.
        size: ``WIDTHxHEIGHT`` in place of a factor.
        steps: The number of steps at strength 1; None is that of the first stage.
        strength: The part of these steps that is drawn, from 0 to 1; at least one step.
        scheduler: The sampler of the second stage; None is the first one's, like the next ones.
        schedule: Its noise schedule; with another sampler, None is this sampler's own.
        prompt: Its prompt.
        negative_prompt: Its negative prompt.
        upscaler: The upscaler of the first stage's picture: a plugin's name, ``lanczos``, or the name of the configured
            file; None or ``latent`` enlarges the latents.
    """

    scale: float | None = None
    size: str | None = None
    steps: int | None = None
    strength: float = 0.7
    scheduler: str | None = None
    schedule: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    upscaler: str | None = None

    @classmethod
    def of(cls, value: object) -> Self:
        """Validate a request's options.

        Raises:
            InvalidRequestError: A value is out of range, or options stand without a size.
        """
        given = cls.read(value, "hires")
        names = {"scheduler", "schedule", "prompt", "negative_prompt", "upscaler"}
        texts = {name: getattr(given, name) for name in names}
        if texts["upscaler"] == LATENT:
            texts["upscaler"] = None
        checked = cls(
            scale=number("hires.scale", given.scale, MAX_SCALE, 1.0),
            size=None if given.size is None else str(Size.parse(given.size, "hires.size")),
            steps=None if given.steps is None else whole_number("hires.steps", given.steps, low=1),
            strength=number("hires.strength", given.strength, 1.0) or 0.0,
            **{name: None if value is None else text(f"hires.{name}", value) for name, value in texts.items()},
        )
        if checked.scale is not None and checked.size is not None:
            raise InvalidRequestError("hires has both a scale and a size: leave one out", "hires.size")
        if given != cls() and not checked:
            raise InvalidRequestError("hires has options and neither a scale nor a size: add one", "hires.scale")
        return checked

    @classmethod
    def parse(cls, given: str) -> Self:
        """Parse a factor such as ``2``, or a size such as ``1024x1024``.

        Raises:
            InvalidRequestError: It is neither.
        """
        if "x" in given.casefold():
            return cls(size=given)
        try:
            return cls(scale=float(given))
        except ValueError:
            raise InvalidRequestError(
                f"Invalid hires {shown(given)}: expected a factor such as 2, or WIDTHxHEIGHT", "hires"
            ) from None

    def __bool__(self) -> bool:
        return self.scale is not None or self.size is not None

    def second_size(self, first: Size) -> Size:
        """Return the size of the second stage.

        Raises:
            InvalidRequestError: It is larger than the largest size.
        """
        if self.size is not None:
            return Size.parse(self.size, "hires.size")
        scale = self.scale or 1.0
        width, height = (int(side * scale) // VAE_REDUCTION * VAE_REDUCTION for side in (first.width, first.height))
        return Size.parse(f"{width}x{height}", "hires.scale")
