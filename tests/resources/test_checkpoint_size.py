"""A checkpoint larger than the memory is refused before it is read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from imagegen_core import ModelLoadError
from imagegen_core.diffusion.loading import check_fits_in_memory

TERABYTE = 10**12


def _sparse(path: Path, **shapes: int) -> Path:
    """Write a .safetensors file of fp16 tensors that takes no disk space."""
    header, begin = {}, 0
    for name, count in shapes.items():
        header[name] = {"dtype": "F16", "shape": [count], "data_offsets": [begin, begin + 2 * count]}
        begin += 2 * count
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + begin)
    return path


def test_a_checkpoint_larger_than_the_memory_is_refused(tmp_path: Path) -> None:
    path = _sparse(tmp_path / "large.safetensors", weight=TERABYTE)
    with pytest.raises(ModelLoadError, match=r"its weights take 4000\.0 GB, and this process may use [\d.]+ GB: set"):
        check_fits_in_memory(path, torch.float32)


def test_weights_that_no_picture_depends_on_are_not_counted(tmp_path: Path) -> None:
    check_fits_in_memory(_sparse(tmp_path / "averages.safetensors", **{"model_ema.weight": TERABYTE}), torch.float32)
