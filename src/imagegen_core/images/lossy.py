"""JPEG and WebP encoding, with A1111's text of a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from PIL import Image

from imagegen_core.images.recipe import A1111_CHUNK
from imagegen_core.picture_files.exif import encode_exif

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

LossyFormat = Literal["jpeg", "webp"]


def encode_lossy(
    pixels: npt.NDArray[np.uint8], form: LossyFormat, quality: int, text: Mapping[str, str] | None = None
) -> bytes:
    """Encode a picture, with A1111's form of its recipe in the place that A1111's tools read.

    Args:
        pixels: RGB levels [height, width, 3].
        form: The format; WebP is lossy, too.
        quality: 0 to 100; JPEG starts at 1.
        text: Text chunks as `encode_png` takes them; only ``parameters`` is kept, as Exif's user comment.
    """
    buffer = io.BytesIO()
    exif = encode_exif((text or {}).get(A1111_CHUNK, ""))
    Image.fromarray(pixels).save(buffer, format=form.upper(), quality=quality, exif=exif)
    return buffer.getvalue()
