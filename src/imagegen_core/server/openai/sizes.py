"""The size of a picture from another picture, if OpenAI's client leaves it to the server."""

from __future__ import annotations

import math

from imagegen_core.request import VAE_REDUCTION, Size


def fitting_size(image: tuple[int, int], native: Size) -> str | None:
    """Return a size with an image's proportions and about as many pixels as the model's native size.

    Args:
        image: Width and height of the image in pixels.
        native: The size that the model was trained for.

    Returns:
        ``WIDTHxHEIGHT`` in multiples of 8; None if the image has no more pixels, so that it is drawn at its own size.
    """
    width, height = image
    pixels = native.width * native.height
    if width * height <= pixels:
        return None
    scale = math.sqrt(pixels / (width * height)) / VAE_REDUCTION
    sides = (max(1, round(side * scale)) * VAE_REDUCTION for side in image)
    return "{}x{}".format(*sides)
