"""Pictures kept in this process."""

from __future__ import annotations

import threading

from cachetools import TTLCache

from imagegen_core.settings import Settings


class MemoryStore:
    """Keeps the pictures used last, each for a time; see `ImageStore`."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is kept yet."""
        self._kept: TTLCache[str, bytes] = TTLCache(settings.storage_max_items, settings.storage_ttl_image)
        self._lock = threading.Lock()

    def put(self, key: str, data: bytes) -> None:
        """See `ImageStore.put`."""
        with self._lock:
            self._kept[key] = data

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
