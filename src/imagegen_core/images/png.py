"""PNG encoding."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encode pixels [height, width, 3] as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
