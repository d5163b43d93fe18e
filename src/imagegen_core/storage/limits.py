"""How much one store keeps, where others may keep their pictures in the same place."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import NamedTuple

from imagegen_core.errors import StorageError
from imagegen_core.settings import Settings


class _Kept(NamedTuple):
    size: int
    until: float


class OwnPictures:
    """The pictures that one store put; the oldest are to go where they become too many, or too large together.

    Pictures of other stores in the same place do not count, nor do those from before a restart, which stay for their
    time.
    """

    def __init__(self, settings: Settings) -> None:
        """There are none yet."""
        self._items, self._bytes = settings.storage_max_items, settings.storage_max_bytes
        self._seconds = settings.storage_ttl_image
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._sum = 0
        self._lock = threading.Lock()

    def check(self, data: bytes) -> None:
        """Refuse a picture that is larger than all pictures may be together.

        Raises:
            StorageError: It is.
        """
        check_size(data, self._bytes)

    def add(self, key: str, size: int) -> list[str]:
        """Note a picture that was put; the keys of those that are to go for it."""
        now = time.monotonic()
        with self._lock:
            self._forget(key)
            self._kept[key] = _Kept(size, now + self._seconds)
            self._sum += size
            while self._kept[oldest := next(iter(self._kept))].until < now:
                self._forget(oldest)  # the store itself lets it go
            superfluous = []
            while len(self._kept) > self._items or self._sum > self._bytes:
                superfluous.append(oldest := next(iter(self._kept)))
                self._forget(oldest)
            return superfluous

    def discard(self, key: str) -> None:
        """Note that a picture was deleted."""
        with self._lock:
            self._forget(key)

    def _forget(self, key: str) -> None:
        if (kept := self._kept.pop(key, None)) is not None:
            self._sum -= kept.size


def check_size(data: bytes, limit: int) -> None:
    """Refuse a picture that is larger than all pictures may be together.

    Raises:
        StorageError: It is.
    """
    if len(data) > limit:
        raise StorageError(
            f"A picture of {len(data)} bytes is larger than all that are kept may be together, {limit} bytes: raise "
            "STORAGE_MAX_BYTES"
        )
