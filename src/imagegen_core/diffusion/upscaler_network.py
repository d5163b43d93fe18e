"""A network that enlarges, whatever its architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Network:
    """A network that enlarges.

    Attributes:
        run: Turns pictures [1, channels, h, w] in 0..1 into [1, channels, h * scale, w * scale].
        channels: Of the picture it takes: 3 for RGB, 1 for grey.
        overlap: How far around a tile it looks, in pixels.
    """

    run: Callable[[Tensor], Tensor]
    channels: int
    overlap: int
