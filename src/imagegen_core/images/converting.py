"""Convert a finished picture to another encoding, and a preview to the size of a picture."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from PIL import Image

from imagegen_core.images.lossy import encode_lossy
from imagegen_core.images.png import encode_png
from imagegen_core.picture_files.decode import PictureFile
from imagegen_core.request import VAE_REDUCTION

Encoding = Literal["png", "jpeg", "webp"]


def convert(png: bytes, encoding: Encoding, quality: int) -> bytes:
    """Convert one of our pictures to another encoding; a PNG stays as it is, byte for byte.

    Args:
        png: The picture, with its recipe.
        encoding: The new encoding.
        quality: 0 to 100, for JPEG and WebP.
    """
    if encoding == "png":
        return png
    file = PictureFile.read(png, png_only=True)
    pixels = np.asarray(file.decode())
    return encode_lossy(pixels, encoding, max(quality, 1) if encoding == "jpeg" else quality, file.text)


def enlarge_preview(preview: bytes, encoding: Encoding) -> bytes:
    """Enlarge a preview, one pixel per latent, to the size of the final picture."""
    with Image.open(io.BytesIO(preview)) as image:
        size = (image.width * VAE_REDUCTION, image.height * VAE_REDUCTION)
        enlarged = image.resize(size, Image.Resampling.BICUBIC)
    return convert(encode_png(np.asarray(enlarged)), encoding, quality=80)
