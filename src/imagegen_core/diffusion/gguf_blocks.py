"""Dequantize the blocks of a GGUF file, by the library gguf of the format's authors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imagegen_core.errors import ModelLoadError
from imagegen_core.importing import load_named
from imagegen_core.models.gguf_header import Block
from imagegen_core.models.tensors import quoted

_ELEMENTS = 65_536  # to dequantize at a time: a multiple of every block's elements, and small enough for a core's cache


def read_blocks(
    path: Path, name: str, block: Block, target: torch.Tensor, fill: Callable[[torch.Tensor, int], None]
) -> None:
    """Dequantize a tensor into `target`, some blocks at a time.

    Args:
        path: The file, for errors.
        name: The tensor's name, for errors.
        block: Its type.
        target: A row of numbers, as many as the tensor has.
        fill: Reads the tensor's bytes from an offset on into a row of uint8.

    Raises:
        ModelLoadError: The library does not dequantize this type.
        PluginError: The library is not installed.
    """
    library: Any = load_named(f"{path}", "gguf:quants", "gguf")
    kind = library.GGMLQuantizationType[block.name.upper()]
    chunk = torch.empty(_ELEMENTS // block.elements * block.size, dtype=torch.uint8)
    for begin in range(0, len(target), _ELEMENTS):
        part = target[begin : begin + _ELEMENTS]
        stored = chunk[: len(part) // block.elements * block.size]
        fill(stored, begin // block.elements * block.size)
        try:
            numbers: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = library.dequantize(stored.numpy(), kind)
        except NotImplementedError as error:
            raise ModelLoadError(
                f"{path} stores the tensor {quoted(name)} as {block.name.upper()}, a quantization that the library "
                "gguf does not read: take a version in Q8_0, Q5_K, Q4_K or another common quantization"
            ) from error
        part.copy_(torch.from_numpy(numbers))
