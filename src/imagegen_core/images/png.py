"""PNG encoding: fast, lossless, with text beside the pixels."""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from PIL import Image
from PIL.PngImagePlugin import PngInfo

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def encode_png(pixels: npt.NDArray[np.uint8], text: Mapping[str, str] | None = None) -> bytes:
    """Encode a picture; the same input gives the same bytes for as long as Pillow and its zlib stay the same.

    Args:
        pixels: RGB levels [height, width, 3].
        text: Text chunks by keyword, 1 to 79 Latin-1 characters. What is Latin-1 becomes a tEXt chunk, the rest
            an iTXt chunk in UTF-8; lone surrogates, which UTF-8 has no form for, become ``?``.
    """
    buffer = io.BytesIO()
    write_png(buffer, pixels, text)
    return buffer.getvalue()


def write_png(buffer: io.BytesIO, pixels: npt.NDArray[np.uint8], text: Mapping[str, str] | None = None) -> None:
    """Encode a picture into a buffer, piece by piece; see `encode_png`."""
    chunks = PngInfo()
    for keyword, value in (text or {}).items():
        chunks.add_text(keyword, value.encode("utf-8", "replace").decode())
    # Searching for repetitions takes most of an encoder's time and finds next to none in a filtered photo: run
    # lengths and Huffman codes alone are several times faster and no larger (benchmarks/png.py).
    Image.fromarray(pixels).save(buffer, format="PNG", compress_type=zlib.Z_RLE, pnginfo=chunks)
