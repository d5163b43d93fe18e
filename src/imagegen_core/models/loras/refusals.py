"""The reasons why a LoRA file does not fit a checkpoint, shared by several readers."""

from __future__ import annotations

from imagegen_core.errors import ModelLoadError
from imagegen_core.models.tensors import quoted

FLOATS = {"float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"}
"""The element types that weights may have."""
MEND = "take a LoRA made for the checkpoint's family"


class LoraError(ModelLoadError):
    """The reason why a LoRA file cannot be used with a checkpoint, in words."""


def mismatch(name: str, shape: tuple[int, ...], weight: tuple[int, ...] | None) -> str:
    """Describe a tensor that does not fit.

    Args:
        name: The tensor's name.
        shape: The shape of the layer that the tensor is for.
        weight: The shape of the checkpoint's parameter; None if it has none.
    """
    there = "this checkpoint has no such parameter" if weight is None else f"this checkpoint's is {_shown(weight)}"
    return f"its tensor {quoted(name)} is for a layer of shape {_shown(shape)}, and {there}; {MEND}"


def _shown(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape[:6])) or "()"
