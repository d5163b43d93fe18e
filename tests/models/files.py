"""Minimal weights files: a header with the names and shapes of real tensors, and data without disk space."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]


def save_header(path: Path, shapes: Shapes, metadata: Mapping[str, str] | None = None) -> Path:
    """Write a safetensors file of float16 zeros that takes no disk space."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [begin, end]}
    return save_raw(path, json.dumps(header).encode(), end)


def save_raw(path: Path, header: bytes, data: int) -> Path:
    """Write a safetensors file with the unchanged header and `data` zero bytes."""
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + data)
    return path
