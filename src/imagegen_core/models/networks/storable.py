"""The weights that may be stored in eight bits, and a component's bytes with and without such storage."""

from __future__ import annotations

import math
from collections.abc import Mapping

from imagegen_core.memory_plan import Shapes

_LARGE = 2**16  # numbers: smaller matrices, such as a network's first and last, are a thousandth of its weights
_EMBEDDINGS = ("embedding", "embed_tokens", "shared", "pos_embed")  # tables that are looked up, not multiplied


def is_large_matrix(shape: tuple[int, ...]) -> bool:
    """Return whether a weight of this shape is worth storing in eight bits."""
    return len(shape) > 1 and math.prod(shape) >= _LARGE


def component_bytes(shapes: Mapping[str, tuple[int, ...]], itemsize: int, *, is_stored: bool = True) -> Shapes:
    """Return the bytes of a component's weights.

    Args:
        shapes: The shapes of its tensors by name.
        itemsize: The bytes of a number in the model's precision.
        is_stored: Whether its large matrices may be stored in eight bits.
    """
    full = int8 = largest = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * itemsize
        full += size
        largest = max(largest, size)
        parent = name.split(".")[-2] if "." in name else ""
        is_table = parent.endswith(_EMBEDDINGS) or name.endswith(_EMBEDDINGS)
        stored = is_stored and is_large_matrix(shape) and name.endswith(".weight") and not is_table
        int8 += math.prod(shape) + shape[0] * itemsize if stored else size
    return Shapes(full, int8, largest)
