"""A check of a picture's size, for networks that see patches of latents."""

from __future__ import annotations

from imagegen_core.errors import InvalidRequestError
from imagegen_core.request import Size


def check_multiples(size: Size, pixels: int, most: int | None = None) -> None:
    """Check that both sides of a picture are multiples of `pixels`.

    Args:
        size: The picture's size.
        pixels: The pixels along each side of a patch.
        most: The maximum length of a side in pixels; None for no maximum.

    Raises:
        InvalidRequestError: A side is no multiple, or too long.
    """
    sides = (size.width, size.height)
    if any(side % pixels for side in sides) or (most is not None and max(sides) > most):
        limit = f", at most {most}x{most}" if most is not None else ""
        raise InvalidRequestError(
            f"Invalid size '{size}': this checkpoint takes multiples of {pixels} pixels{limit}", "size"
        )
