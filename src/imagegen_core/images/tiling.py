"""Enlarge a picture in tiles, so that memory does not grow with the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from imagegen_core.parts import Parts

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]


def enlarge_in_tiles(
    enlarge: Callable[[Pixels], Pixels], pixels: Pixels, *, scale: int, tile: int, overlap: int
) -> Parts[Pixels]:
    """Enlarge tile after tile with an overlap, and cut the overlap off; yield before each tile.

    There is no seam if every pixel depends only on pixels within `overlap`, the receptive radius of a convolutional
    network. Each tile then has the same result as in the whole picture.

    Args:
        enlarge: Turns pixels [h, w, 3] into pixels [h * scale, w * scale, 3].
        pixels: The picture [height, width, 3].
        scale: The factor for both sides.
        tile: The side of a tile without overlap, in pixels of `pixels`.
        overlap: The width of the overlap on each side, in pixels of `pixels`.

    Returns:
        Pixels [height * scale, width * scale, 3].
    """
    import numpy as np

    height, width, channels = pixels.shape
    enlarged = np.empty((height * scale, width * scale, channels), dtype=np.uint8)
    for top, bottom, first, last in _spans(height, tile, overlap):
        for left, right, start, stop in _spans(width, tile, overlap):
            yield
            part = enlarge(pixels[first:last, start:stop])
            enlarged[top * scale : bottom * scale, left * scale : right * scale] = part[
                (top - first) * scale : (bottom - first) * scale, (left - start) * scale : (right - start) * scale
            ]
    return enlarged


def _spans(length: int, tile: int, overlap: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield for each tile of a side its begin and end, then both with overlap."""
    for begin in range(0, length, tile):
        end = min(begin + tile, length)
        yield begin, end, max(begin - overlap, 0), min(end + overlap, length)
