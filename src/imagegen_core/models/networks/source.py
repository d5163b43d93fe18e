"""The origin of a network's tensor in a weights file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

Rows = tuple[int, int]
"""A range of rows: the first, and the first after them."""


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor of a weights file, and its conversion for a network.

    Attributes:
        name: Its name in the file.
        dtype: Its element type by torch's name.
        shape: Its shape in the network.
        scale: The name of the tensor to multiply it by, if it is stored scaled in few bits.
        rows: The rows of the stored tensor, as ranges joined in this order; empty for all rows.
        transposed: Whether rows and columns are swapped.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: str | None = None
    rows: tuple[Rows, ...] = ()
    transposed: bool = False

    def taking(self, *rows: Rows) -> Source:
        """Return some rows of this tensor, joined in this order."""
        return replace(self, rows=rows, shape=(sum(end - begin for begin, end in rows), *self.shape[1:]))

    def of_stack(self, third: int) -> Source:
        """Return one third of these stacked matrices or biases."""
        height = self.shape[0] // 3
        return self.taking((third * height, (third + 1) * height))

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
