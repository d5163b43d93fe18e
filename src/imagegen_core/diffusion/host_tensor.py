"""Allocate tensors in main memory, in huge pages: these fill several times faster than usual pages."""

from __future__ import annotations

import math
import mmap
import threading
from collections.abc import Sequence

import torch

_HUGE_PAGE = 2 * 2**20  # of x86
_SLAB = 64 * _HUGE_PAGE
_ALIGNMENT = 64  # bytes: a cache line
_ADVICE = getattr(mmap, "MADV_HUGEPAGE", None)  # Linux alone


class HostMemory:
    """Allocates the tensors of a network side by side, for all threads.

    Most tensors are smaller than two huge pages, so several share a slab of memory. A slab returns to the kernel with
    its last tensor. Each tensor has its own storage.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slab: mmap.mmap | None = None
        self._used = 0

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return an uninitialized contiguous tensor."""
        size = math.prod(shape) * dtype.itemsize
        if not size or _ADVICE is None:
            return torch.empty(shape, dtype=dtype)
        try:
            with self._lock:
                slab, begin = self._place(size)
        except OSError:  # a kernel without huge pages
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(slab, dtype=dtype, count=math.prod(shape), offset=begin).view(shape)

    def _place(self, size: int) -> tuple[mmap.mmap, int]:
        """Return a slab with `size` free bytes, and their beginning."""
        if size > _SLAB // 2:
            return _pages(size), 0
        if self._slab is None or self._used + size > _SLAB:
            self._slab, self._used = _pages(_SLAB), 0
        begin = self._used
        self._used += -(-size // _ALIGNMENT) * _ALIGNMENT
        return self._slab, begin


def _pages(size: int) -> mmap.mmap:
    whole = -(-size // _HUGE_PAGE) * _HUGE_PAGE
    pages = mmap.mmap(-1, whole, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if _ADVICE is not None:
        pages.madvise(_ADVICE)
    return pages
