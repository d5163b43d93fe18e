"""PNG encoding: fast, lossless, with text chunks."""

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
    """Encode a picture; the same input gives the same bytes with the same Pillow and zlib.

    Args:
        pixels: RGB levels [height, width, 3].
        text: Text chunks by keyword, 1 to 79 Latin-1 characters. Latin-1 text becomes a tEXt chunk, other text an iTXt
            chunk in UTF-8. Lone surrogates, which UTF-8 cannot encode, become ``?``.
    """
    buffer = io.BytesIO()
    write_png(buffer, pixels, text)
    return buffer.getvalue()


def write_png(buffer: io.BytesIO, pixels: npt.NDArray[np.uint8], text: Mapping[str, str] | None = None) -> None:
    """Encode a picture into a buffer, piece by piece; see `encode_png`."""
    chunks = PngInfo()
    for keyword, value in (text or {}).items():
        chunks.add_text(keyword, value.encode("utf-8", "replace").decode())
    # The search for repetitions takes most of an encoder's time, and finds almost none in a filtered photo. Run lengths
    # and Huffman codes alone are several times faster, and the file is no larger (benchmarks/png.py).
    Image.fromarray(pixels).save(buffer, format="PNG", compress_type=zlib.Z_RLE, pnginfo=chunks)
