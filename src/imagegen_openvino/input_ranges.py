"""The ranges of layers' inputs, which trial pictures show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Limits = Mapping[str, tuple[float, float]]
"""The smallest and the largest input of layers, by the names of their weights."""


class InputRanges:
    """The ranges of a network's inputs in int8.

    Attributes:
        limits: What is known.
        complete: Whether nothing is added any more.
    """

    def __init__(self, limits: Limits | None) -> None:
        """Take complete limits; None begins without any."""
        self.complete = limits is not None
        self.limits: dict[str, tuple[float, float]] = dict(limits or {})

    def add(self, names: Sequence[str], vector: npt.NDArray[np.float32]) -> None:
        """Widen the ranges.

        Args:
            names: The layers.
            vector: The smallest input of each layer, then the largest.
        """
        for name, low, high in zip(names, *np.split(vector.astype(float), 2), strict=True):
            least, most = self.limits.get(name, (low, high))
            self.limits[name] = (min(least, low), max(most, high))
