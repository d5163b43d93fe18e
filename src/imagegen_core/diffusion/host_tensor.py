"""Allocate tensors in main memory that returns to the system with them."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import torch

_LARGE = 2**20  # bytes; smaller tensors waste too much of their last page
_FLAGS = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)  # 0 on Windows


def host_tensor(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return an uninitialized contiguous tensor; a large one has pages of its own.

    `imagegen_core.diffusion.device.keep_large_buffers` makes glibc keep what is freed, and an unloaded model must not
    stay. The pages are of the usual size: a kernel that first has to gather free memory for huge pages takes several
    times as long to fill them.
    """
    size = math.prod(shape) * dtype.itemsize
    if size < _LARGE or not _FLAGS:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(mmap.mmap(-1, size, flags=_FLAGS), dtype=dtype).view(shape)
