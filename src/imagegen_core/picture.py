"""The result of a drawn request."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Picture:
    """A finished picture.

    Attributes:
        png: The encoded PNG.
        seed: The seed; the same request with this seed draws the same picture.
        latents: The final latents, adaptive-average-pooled in float32 to 8×8: little-endian float16 in NCHW order
            [1, channels, 8, 8], 512 bytes for 4 channels. They serve as a small fingerprint.
    """

    png: bytes
    seed: int
    latents: bytes

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, from the PNG's header."""
        width, height = struct.unpack(">II", self.png[16:24])
        return width, height

    @cached_property
    def image(self) -> Image:
        """The decoded picture in RGB."""
        from PIL import Image

        return Image.open(io.BytesIO(self.png)).convert("RGB")
