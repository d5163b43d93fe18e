"""The interface of a picture store, and the description for plugins to offer one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from imagegen_core.importing import load_named

if TYPE_CHECKING:
    from imagegen_core.settings import Settings


DISABLED = "disabled"
"""The storage provider that keeps no pictures."""


class ImageStore(Protocol):
    """A store of encoded pictures by key, limited in time and number; called from any thread.

    A picture is stored completely or not at all, even if a `put` is interrupted. Failures of the store raise
    `StorageError`.
    """

    def put(self, key: str, data: bytes) -> None:
        """Store `data` under `key`, replacing an earlier picture."""
        ...

    def get(self, key: str) -> bytes | None:
        """Return the picture under `key`; None if there is none, or it has expired."""
        ...

    def delete(self, key: str) -> bool:
        """Remove the picture under `key`; return whether there was one."""
        ...

    def check(self) -> None:
        """Raise a `StorageError` if the store is not usable now."""
        ...


@dataclass(frozen=True, slots=True)
class StoreDef:
    """The description of a kind of store, made without importing its dependencies.

    Attributes:
        name: Its name in ``STORAGE_PROVIDER``.
        summary: One line for lists.
        factory: ``module:callable`` that makes the `ImageStore`, imported on first use and called with the `Settings`.
        extra: The required extra of imagegen-core, if any.
        shared: Whether several processes see each other's pictures in the same place.
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
            SettingsError: The settings lack a place for the pictures, or name an invalid one.
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
