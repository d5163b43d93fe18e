"""The origin of a network's tensor in a weights file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor of a weights file, and its conversion for a network.

    Attributes:
        name: Its name in the file.
        dtype: Its element type by torch's name.
        shape: Its shape in the network.
        scale: The name of the tensor to multiply it by, if it is stored scaled in few bits.
        third: For a matrix that stacks query, key and value: the index of the selected part, from 0.
        transposed: Whether rows and columns are swapped.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: str | None = None
    third: int | None = None
    transposed: bool = False

    def of_stack(self, third: int) -> Source:
        """Return one third of these stacked matrices or biases."""
        return replace(self, third=third, shape=(self.shape[0] // 3, *self.shape[1:]))

    def turned(self) -> Source:
        """Return the transposed matrix."""
        return replace(self, transposed=True, shape=self.shape[::-1])


Layers = Mapping[str, Source]
"""A network's tensors by the names in its module. An unknown tensor keeps its name in the file."""


def renamed(layers: Layers, rename: Callable[[str], str]) -> dict[str, Source]:
    """Rename the layers. If two get the same name, the second keeps the file's name."""
    result: dict[str, Source] = {}
    for name, source in layers.items():
        new = rename(name)
        result[source.name if new in result else new] = source
    return result
