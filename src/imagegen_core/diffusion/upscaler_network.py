"""An upscaling network of any architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from imagegen_core.parts import Parts


@dataclass(frozen=True, slots=True)
class Network:
    """An upscaling network.

    Attributes:
        run: Turns pictures [1, channels, h, w] in 0..1 into [1, channels, h * scale, w * scale], in parts.
        channels: The channels of its input: 3 for RGB, 1 for grey.
        overlap: The size of its surroundings around a tile, in pixels.
    """

    run: Callable[[Tensor], Parts[Tensor]]
    channels: int
    overlap: int
