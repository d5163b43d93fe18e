"""JPEG encoding, with the text of a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

from PIL import Image

from imagegen_core.images.exif import encode_exif
from imagegen_core.images.recipe import A1111_CHUNK

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def encode_jpeg(pixels: npt.NDArray[np.uint8], text: Mapping[str, str] | None = None, quality: int = 92) -> bytes:
    """Encode a picture, with its recipe in A1111's form as Exif, where A1111's tools read it.

    Args:
        pixels: RGB levels [height, width, 3].
        text: As for `encode_png`; only ``parameters`` is kept, as Exif's user comment.
        quality: 1 to 100.
    """
    buffer = io.BytesIO()
    exif = encode_exif((text or {}).get(A1111_CHUNK, ""))
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality, exif=exif)
    return buffer.getvalue()
