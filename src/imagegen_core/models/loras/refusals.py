"""Why a LoRA file cannot be used with a checkpoint, in sentences that several readers of it share."""

from __future__ import annotations

from imagegen_core.errors import ModelLoadError
from imagegen_core.models.tensors import quoted

FLOATS = {"float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"}
"""The element types that weights may have."""
MEND = "take a LoRA made for the checkpoint's family"


class LoraError(ModelLoadError):
    """Why a LoRA file cannot be used with a checkpoint, in words."""


def mismatch(name: str, shape: tuple[int, ...], weight: tuple[int, ...] | None) -> str:
    """The sentence for a tensor that does not fit.

    Args:
        name: The tensor's.
        shape: The shape of the layer that it is for.
        weight: The shape that the checkpoint's parameter has; None where there is none.
    """
    there = "this checkpoint has no such parameter" if weight is None else f"this checkpoint's is {_shown(weight)}"
    return f"its tensor {quoted(name)} is for a layer of shape {_shown(shape)}, and {there}; {MEND}"


def _shown(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape[:6])) or "()"
