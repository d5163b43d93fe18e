"""The look of the demo's style: pale colours on cream paper, and dark outlines."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

_PAPER = np.array([250.0, 240.0, 218.0])
_INK = np.array([62.0, 40.0, 44.0])
_PALENESS = 0.5
_EDGE = 24  # levels; an outline is drawn between pixels that differ more


def storybook(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return pixels [height, width, 3] in this look."""
    levels = pixels.astype(np.float64)
    edges = np.zeros(levels.shape[:2], dtype=bool)
    edges[:, 1:] |= np.abs(np.diff(levels, axis=1)).max(-1) > _EDGE
    edges[1:] |= np.abs(np.diff(levels, axis=0)).max(-1) > _EDGE
    thick = Image.fromarray((edges * 255).astype(np.uint8)).filter(ImageFilter.MaxFilter(3))
    ink = np.asarray(thick.filter(ImageFilter.GaussianBlur(0.8)), dtype=np.float64)[..., None] / 255
    pale = levels * (1 - _PALENESS) + _PAPER * _PALENESS
    return (pale * (1 - ink) + _INK * ink).round().astype(np.uint8)
