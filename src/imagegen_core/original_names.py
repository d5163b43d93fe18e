"""The names of a network's layers in its original code, where a layer may hold several of diffusers' layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LayerPart:
    """A layer of a diffusers network, as a part of a layer in the original code.

    Attributes:
        name: The layer by diffusers' name.
        share: Its number of rows, relative to the other parts of the original layer.
        swapped: Whether the original code has the two halves of its rows in the other order.
    """

    name: str
    share: int = 1
    swapped: bool = False


OriginalNames = Mapping[str, Sequence[LayerPart]]
"""For each layer of the original code, its parts in the order of their rows."""
