"""A picture's size."""

from __future__ import annotations

import re
from dataclasses import dataclass

from imagegen_core.errors import InvalidRequestError
from imagegen_core.request.checks import shown

VAE_REDUCTION = 8
"""A latent covers 8×8 pixels, so width and height are multiples of 8."""
MAX_SIDE = 8192
"""The largest width and height of a picture, in pixels."""
_SIZE = re.compile(r"\s*([0-9]{1,6})\s*[xX]\s*([0-9]{1,6})\s*")


@dataclass(frozen=True, slots=True)
class Size:
    """A picture's size in pixels; width and height are positive multiples of 8, at most 8192."""

    width: int
    height: int

    @classmethod
    def parse(cls, text: object, field: str = "size") -> Size:
        """Parse ``WIDTHxHEIGHT``.

        Args:
            text: The size as text.
            field: The name of its field in errors.

        Raises:
            InvalidRequestError: `text` has another form, or is not a valid size.
        """
        sides = parse_sides(text)
        if sides and all(0 < side <= MAX_SIDE and side % VAE_REDUCTION == 0 for side in sides):
            return cls(*sides)
        limit = f", at most {MAX_SIDE}x{MAX_SIDE}" if sides else ""
        raise InvalidRequestError(
            f"Invalid {field} {shown(text)}: expected WIDTHxHEIGHT in pixels, multiples of 8, such as 1024x1024{limit}",
            field,
        )

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


def parse_sides(text: object) -> tuple[int, int] | None:
    """Return width and height from ``WIDTHxHEIGHT``; None if `text` has another form."""
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    return (int(match[1]), int(match[2])) if match else None
