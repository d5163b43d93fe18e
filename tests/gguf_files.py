"""Write GGUF files with the format's own library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
import torch

Kind = gguf.GGMLQuantizationType
_DIMENSIONS = 2  # of a matrix: converters keep other tensors in full precision


def save_gguf(
    path: Path,
    state: Mapping[str, torch.Tensor],
    kind: Kind = Kind.Q8_0,
    *,
    architecture: str = "sdxl",
    quantizes: Callable[[str, torch.Tensor], bool] = lambda _, tensor: tensor.ndim == _DIMENSIONS,
) -> dict[str, torch.Tensor]:
    """Write a state, matrices quantized, and return it as the library dequantizes it, in fp32."""
    writer = gguf.GGUFWriter(path, architecture)
    expected = {}
    for name, tensor in state.items():
        own = Kind.F32
        if quantizes(name, tensor) and tensor.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0:
            own = kind
        stored = gguf.quants.quantize(tensor.float().numpy(), own)
        writer.add_tensor(name, stored, raw_dtype=own)
        expected[name] = torch.from_numpy(gguf.quants.dequantize(stored, own).copy()).reshape(tensor.shape)
    finish(writer)
    return expected


def finish(writer: gguf.GGUFWriter) -> None:
    """Write a file with the tensors that were added."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def random_blocks(kind: Kind, rows: int, width: int) -> np.ndarray:
    """Return the bytes of random blocks, with scales of about 1: the library writes no K-quantizations."""
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, 256, (rows, width // elements, size), dtype=np.uint8)
    halves = blocks.view(np.uint16)
    halves &= 0xBBFF  # no exponent of infinity and NaN, wherever a scale lies
    return blocks.reshape(rows, -1)
