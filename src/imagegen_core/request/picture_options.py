"""The options of requests with input pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from imagegen_core.errors import InvalidRequestError
from imagegen_core.request.checks import choice, flag, number, shown, whole_number

RESIZES = ("stretch", "crop", "pad", "latent")
"""How an input picture gets the size of the drawn picture."""
FILLS = ("original", "surroundings", "noise", "zeros")
"""The content of the masked part at the start."""
MAX_BLUR = 64.0  # the largest in A1111's page
MAX_PADDING = 1024
MAX_SIDE_ADDED = 4096


class Options(BaseModel):
    """Options with defaults; equal options are equal, and none changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def given(self) -> dict[str, Any]:
        """Return the options that differ from their defaults."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @classmethod
    def read(cls, value: object, field: str) -> Self:
        """Return a request's options, from this class, a mapping or any object with the attributes; None is default.

        Raises:
            InvalidRequestError: A mapping has another key; `field` is the options' name in the error.
        """
        if value is None:
            return cls()
        if isinstance(value, cls):
            return value
        names = cls.model_fields
        if isinstance(value, Mapping):
            if unknown := [key for key in value if key not in names]:
                raise InvalidRequestError(
                    f"Unknown key {shown(unknown[0])} in {field}: expected some of {', '.join(names)}", field
                )
            return cls.model_construct(**value)
        given = {name: getattr(value, name) for name in names if hasattr(value, name)}
        return cls.model_construct(**given)


class InpaintOptions(Options):
    """How the masked part of a picture is drawn again.

    Attributes:
        fill: The masked part at the start: ``original`` leaves it, ``surroundings`` blurs the colours around it into
            it, ``noise`` and ``zeros`` replace its latents.
        blur: The standard deviation in pixels of a Gaussian blur of the mask, 0 to 64; it follows the inversion.
        only_masked: Whether to draw the masked part alone, enlarged to the size of the request.
        padding: Pixels around the masked part that are drawn with it, 0 to 1024; for `only_masked`.
        invert: Whether black repaints, instead of white.
    """

    fill: str = "original"
    blur: float = 0.0
    only_masked: bool = False
    padding: int = 32
    invert: bool = False

    @classmethod
    def of(cls, value: object) -> Self:
        """Validate a request's options.

        Raises:
            InvalidRequestError: A value is out of range.
        """
        given = cls.read(value, "inpaint")
        return cls(
            fill=choice("inpaint.fill", given.fill, FILLS),
            blur=number("inpaint.blur", given.blur, MAX_BLUR) or 0.0,
            only_masked=flag("inpaint.only_masked", given.only_masked),
            padding=whole_number("inpaint.padding", given.padding, high=MAX_PADDING),
            invert=flag("inpaint.invert", given.invert),
        )


class OutpaintOptions(Options):
    """Pixels to add to the sides of a picture, 0 to 4096 each.

    The new picture's width and height are multiples of 8: a side that grows anyway, else the right or the lower one,
    gets the missing pixels.
    """

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0

    @classmethod
    def of(cls, value: object) -> Self:
        """Validate a request's options.

        Raises:
            InvalidRequestError: A value is out of range.
        """
        given = cls.read(value, "outpaint")
        sides = {
            name: whole_number(f"outpaint.{name}", getattr(given, name), high=MAX_SIDE_ADDED)
            for name in cls.model_fields
        }
        return cls(**sides)

    def __bool__(self) -> bool:
        return any((self.left, self.top, self.right, self.bottom))

    def fitted(self, size: tuple[int, int], multiple: int) -> Self:
        """Return the sides for a picture of this size, so that both sums are multiples."""
        left, right = _fitted(size[0], self.left, self.right, multiple)
        top, bottom = _fitted(size[1], self.top, self.bottom, multiple)
        return type(self)(left=left, top=top, right=right, bottom=bottom)

    def grown(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the width and height with these sides."""
        return size[0] + self.left + self.right, size[1] + self.top + self.bottom


def _fitted(side: int, before: int, after: int, multiple: int) -> tuple[int, int]:
    missing = -(side + before + after) % multiple
    return (before + missing, after) if before and not after else (before, after + missing)
