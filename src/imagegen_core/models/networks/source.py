"""Where a network's tensor comes from in a weights file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor of a weights file, and what is done to it on its way into a network.

    Attributes:
        name: Its name in the file.
        dtype: Its element type by torch's name.
        shape: Its shape as the network takes it.
        scale: The name of the tensor that it is multiplied by, where it was scaled to fit into few bits.
        third: Of a matrix that stacks query, key and value: which of the three it is, from 0.
        transposed: Whether rows and columns change places.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: str | None = None
    third: int | None = None
    transposed: bool = False

    def of_stack(self, third: int) -> Source:
        """One of the three matrices or biases that this one stacks."""
        return replace(self, third=third, shape=(self.shape[0] // 3, *self.shape[1:]))

    def turned(self) -> Source:
        """The matrix with rows and columns changed."""
        return replace(self, transposed=True, shape=self.shape[::-1])


Layers = Mapping[str, Source]
"""A network's tensors by the names its module has for them; a tensor that nobody knows keeps the file's name."""


def renamed(layers: Layers, rename: Callable[[str], str]) -> dict[str, Source]:
    """The layers by other names; of two that come to the same name, the second one keeps its own."""
    result: dict[str, Source] = {}
    for name, source in layers.items():
        new = rename(name)
        result[source.name if new in result else new] = source
    return result
