"""What a store of pictures is, and the description by which a plugin offers one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from imagegen_core.importing import load_named

if TYPE_CHECKING:
    from imagegen_core.settings import Settings


class ImageStore(Protocol):
    """Keeps encoded pictures by key, for a time and up to a number; called from any thread.

    A picture is there whole or not at all, whatever interrupts a `put`. What goes wrong with the store itself is a
    `StorageError`.
    """

    def put(self, key: str, data: bytes) -> None:
        """Keep `data` under `key`, in place of what was there."""
        ...

    def get(self, key: str) -> bytes | None:
        """What is kept under `key`; None where nothing is, or no longer."""
        ...

    def delete(self, key: str) -> bool:
        """Let go of what is kept under `key`; whether anything was."""
        ...

    def check(self) -> None:
        """Raise a `StorageError` where the store cannot be used at the moment."""
        ...


@dataclass(frozen=True, slots=True)
class StoreDef:
    """A kind of store, described without importing what it takes.

    Attributes:
        name: What ``STORAGE_PROVIDER`` calls it.
        summary: One line for lists.
        factory: ``module:callable`` that makes the `ImageStore`, imported on first use and called with the `Settings`.
        extra: The extra of imagegen-core that it needs, if any.
        shared: Whether several processes that open it in one place see each other's pictures.
    """

    name: str
    summary: str
    factory: str
    extra: str | None = None
    shared: bool = True

    def load(self, settings: Settings) -> ImageStore:
        """Make the store.

        Raises:
            PluginError: The factory's module does not import, or has no such name.
            SettingsError: The settings do not say where to store, or say it wrongly.
        """
        factory = load_named(f"Storage '{self.name}'", self.factory, self.extra)
        return cast("ImageStore", factory(settings))


STORES = (
    StoreDef(
        "memory", "in this process, gone with it", "imagegen_core.storage.memory:MemoryStore", "server", shared=False
    ),
    StoreDef(
        "filesystem", "a folder, or an object store", "imagegen_core.storage.filesystem:FilesystemStore", "server"
    ),
    StoreDef("redis", "a Redis server, shared by many", "imagegen_core.storage.redis:RedisStore", "redis"),
)
