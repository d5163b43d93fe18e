"""Hires fix: a second drawing at a larger size, from the first one's latents or picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from imagegen_core.errors import InvalidRequestError
from imagegen_core.request.checks import flag, number, shown, text, whole_number
from imagegen_core.request.picture_options import Options
from imagegen_core.request.size import VAE_REDUCTION, Size

MAX_SCALE = 8.0
LATENT = "latent"
"""The name of the default, beside the names of upscalers: latents are enlarged bilinearly."""
LATENT_MODES: Mapping[str, tuple[str, bool]] = {
    LATENT: ("bilinear", False),
    "latent (antialiased)": ("bilinear", True),
    "latent (bicubic)": ("bicubic", False),
    "latent (bicubic antialiased)": ("bicubic", True),
    "latent (nearest)": ("nearest", False),
    "latent (nearest-exact)": ("nearest-exact", False),
}
"""How latents are enlarged, by A1111's names: the mode of ``torch.nn.functional.interpolate``, and its antialiasing."""
_OPTIONS = {"num_inference_steps": "steps"}  # with other names than a request's fields


class HiresOptions(Options):
    """A second stage at a larger size; `scale` or `size` turns it on.

    The latents of the first stage are enlarged, get noise, and are denoised again. With an upscaler, the first stage's
    picture is enlarged instead, and encoded again.

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
            file; None or ``latent`` enlarges the latents bilinearly, and other names of `LATENT_MODES` in other ways.
        fresh_noise: Whether the second stage begins the random numbers of the request's seed anew, with its variation,
            as A1111 does; else it continues those of the first stage.
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
    fresh_noise: bool = False

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
            fresh_noise=flag("hires.fresh_noise", given.fresh_noise),
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

    @property
    def latent_mode(self) -> tuple[str, bool] | None:
        """How latents are enlarged, as in `LATENT_MODES`; None if an upscaler enlarges the picture."""
        return LATENT_MODES.get(self.upscaler or LATENT)

    def renamed(self, error: InvalidRequestError) -> InvalidRequestError:
        """Return an error about the second stage's request as an error about the option that the stage has it from."""
        if error.field == "size" and self.scale is not None:
            sentence = str(error).replace("Invalid size", f"Invalid hires.scale {self.scale:g}, which makes", 1)
            return InvalidRequestError(sentence, "hires.scale")
        option = _OPTIONS.get(error.field or "", error.field or "")
        if getattr(self, option, None) is None:
            return error
        sentence = str(error).replace(f"Invalid {error.field}", f"Invalid hires.{option}", 1)
        return InvalidRequestError(sentence, f"hires.{option}")

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
