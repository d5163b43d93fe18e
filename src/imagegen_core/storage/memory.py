"""A store of pictures in this process."""

from __future__ import annotations

import threading

from cachetools import TTLCache

from imagegen_core.settings import Settings
from imagegen_core.storage.limits import check_size


class MemoryStore:
    """Keep the latest pictures, each for a time; see `ImageStore`."""

    def __init__(self, settings: Settings) -> None:
        """Take the limits from `settings`."""
        self._items, self._bytes = settings.storage_max_items, settings.storage_max_bytes
        self._kept: TTLCache[str, bytes] = TTLCache(self._bytes, settings.storage_ttl_image, getsizeof=len)
        self._lock = threading.Lock()

    def put(self, key: str, data: bytes) -> None:
        """See `ImageStore.put`."""
        check_size(data, self._bytes)
        with self._lock:
            self._kept[key] = data
            while len(self._kept) > self._items:
                self._kept.popitem()

    def get(self, key: str) -> bytes | None:
        """See `ImageStore.get`."""
        with self._lock:
            return self._kept.get(key)

    def delete(self, key: str) -> bool:
        """See `ImageStore.delete`."""
        with self._lock:
            return self._kept.pop(key, None) is not None

    def check(self) -> None:
        """See `ImageStore.check`."""
