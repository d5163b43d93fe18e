"""Enlarge a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from imagegen_core.errors import InvalidRequestError
from imagegen_core.picture_files.decode import MAX_PIXELS

if TYPE_CHECKING:
    from imagegen_core.images.upscaler import Upscaler, UpscalerDef
    from imagegen_core.settings import Settings

MAX_PASSES = 3


class Lanczos:
    """Lanczos interpolation: doubles both sides, without adding detail."""

    name = "lanczos"
    scale = 2

    def __init__(self, _description: UpscalerDef, _settings: Settings) -> None: ...

    def enlarge(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """See `Upscaler.enlarge`."""
        height, width, _ = pixels.shape
        size = (width * self.scale, height * self.scale)
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def upscale(image: Image.Image, upscaler: Upscaler, passes: int = 1) -> Image.Image:
    """Enlarge an RGB image `passes` times, each time by the upscaler's scale.

    Raises:
        InvalidRequestError: `passes` is not 1 to 3, or the result would have more than `MAX_PIXELS`.
    """
    if passes not in range(1, MAX_PASSES + 1):
        raise InvalidRequestError(f"Invalid passes {passes!r}: expected a whole number from 1 to {MAX_PASSES}")
    factor = upscaler.scale**passes
    width, height = image.width * factor, image.height * factor
    if width * height > MAX_PIXELS:
        raise InvalidRequestError(
            f"Cannot upscale {image.width}x{image.height} by {factor}: {width}x{height} is more than the "
            f"{MAX_PIXELS // 10**6} million pixels allowed; take fewer passes or a smaller picture"
        )
    pixels = np.asarray(image)
    for _ in range(passes):
        pixels = upscaler.enlarge(pixels)
    return Image.fromarray(pixels)
