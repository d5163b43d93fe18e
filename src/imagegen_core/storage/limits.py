"""The limits of one store, if several stores keep their pictures in the same place."""

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
    version: float


class Superfluous(NamedTuple):
    """A picture to remove.

    Attributes:
        key: Its key.
        version: Its version when it was put; another version in its place belongs to another store.
    """

    key: str
    version: float


class OwnPictures:
    """The pictures of one store. The oldest are removed if there are too many, or if they are too large together.

    Pictures of other stores in the same place do not count. Neither do pictures from before a restart; they stay until
    they expire.
    """

    def __init__(self, settings: Settings) -> None:
        """Take the limits from `settings`."""
        self._items, self._bytes = settings.storage_max_items, settings.storage_max_bytes
        self._seconds = settings.storage_ttl_image
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._sum = 0
        self._lock = threading.Lock()

    def check(self, data: bytes) -> None:
        """Refuse a picture larger than the limit for all pictures.

        Raises:
            StorageError: It is.
        """
        check_size(data, self._bytes)

    def add(self, key: str, size: int, version: float = 0.0) -> list[Superfluous]:
        """Record a picture, and return the pictures to remove for it.

        Args:
            key: Its key.
            size: Its bytes.
            version: Distinguishes it from another picture with its key, such as the time of writing.
        """
        now = time.monotonic()
        with self._lock:
            self._forget(key)
            self._kept[key] = _Kept(size, now + self._seconds, version)
            self._sum += size
            while self._kept[oldest := next(iter(self._kept))].until < now:
                self._forget(oldest)  # the store itself removes it
            superfluous = []
            while len(self._kept) > self._items or self._sum > self._bytes:
                oldest, kept = next(iter(self._kept.items()))
                superfluous.append(Superfluous(oldest, kept.version))
                self._forget(oldest)
            return superfluous

    def discard(self, key: str) -> None:
        """Record a picture's deletion."""
        with self._lock:
            self._forget(key)

    def _forget(self, key: str) -> None:
        if (kept := self._kept.pop(key, None)) is not None:
            self._sum -= kept.size


def check_size(data: bytes, limit: int) -> None:
    """Refuse a picture larger than the limit for all pictures.

    Raises:
        StorageError: It is.
    """
    if len(data) > limit:
        raise StorageError(
            f"A picture of {len(data)} bytes is larger than all that are kept may be together, {limit} bytes: raise "
            "STORAGE_MAX_BYTES"
        )
