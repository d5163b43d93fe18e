"""A finished picture in another encoding, and a preview at the size of a picture."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from PIL import Image

from imagegen_core.images.lossy import encode_lossy
from imagegen_core.images.png import encode_png
from imagegen_core.images.reading import PictureFile
from imagegen_core.request import VAE_REDUCTION

Encoding = Literal["png", "jpeg", "webp"]


def convert(png: bytes, encoding: Encoding, quality: int) -> bytes:
    """A picture of ours in another encoding; a PNG stays as it is, byte for byte.

    Args:
        png: The picture, with its recipe.
        encoding: What to make of it.
        quality: 0 to 100, for JPEG and WebP.
    """
    if encoding == "png":
        return png
    file = PictureFile.read(png, png_only=True)
    pixels = np.asarray(file.decode())
    return encode_lossy(pixels, encoding, max(quality, 1) if encoding == "jpeg" else quality, file.text)


def enlarge_preview(preview: bytes, encoding: Encoding) -> bytes:
    """A preview, which has a pixel for each latent, as large as the picture will be."""
    with Image.open(io.BytesIO(preview)) as image:
        size = (image.width * VAE_REDUCTION, image.height * VAE_REDUCTION)
        enlarged = image.resize(size, Image.Resampling.BICUBIC)
    return convert(encode_png(np.asarray(enlarged)), encoding, quality=80)
