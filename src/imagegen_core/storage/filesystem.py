"""Pictures kept as files, in a folder or in whatever else fsspec reaches."""

from __future__ import annotations

import errno
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import fsspec

from imagegen_core.errors import SettingsError, StorageError
from imagegen_core.settings import Settings
from imagegen_core.storage.store import without_password

_ENDING = ".picture"  # tells the store's files from others in the folder, which it leaves alone
_PARTIAL = ".part-"
_PRUNED_EVERY = 60.0  # seconds: listing a folder, or a bucket, takes time
_PARTIAL_FOR = 600.0  # seconds after which the rest of a write that was interrupted goes
_MENDS = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room, or raise its quota",
    errno.EACCES: "correct its permissions",
    errno.EPERM: "correct its permissions",
    errno.EROFS: "mount it so that it can be written to",
    errno.EEXIST: "name a folder, where a file is now",
    errno.ENOTDIR: "name a folder, where a file is now",
}


class FilesystemStore:
    """Keeps each picture in a file, its key followed by ``.picture``; see `ImageStore`.

    In a folder, a picture is written beside its place and moved there, which is atomic; object stores are so by
    themselves. Old files go, and those beyond the number allowed.
    """

    def __init__(self, settings: Settings) -> None:
        """Open the folder, and make it where it is missing.

        Raises:
            SettingsError: No folder is configured, or its kind needs a package that is not installed.
            StorageError: It cannot be made.
        """
        if not settings.storage_url:
            raise SettingsError(
                "STORAGE_PROVIDER=filesystem needs to know where: set STORAGE_URL to a folder, or to a URL such as "
                "s3://bucket/pictures"
            )
        try:
            # A listing that is remembered would hide what other processes put into a bucket meanwhile.
            self._files, root = fsspec.url_to_fs(settings.storage_url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise SettingsError(
                f"{settings.source('storage_url')}={without_password(settings.storage_url)}: {error}"
            ) from error
        self._root = root.rstrip("/")
        self._moves = "file" in _names(self._files)
        self._limit, self._seconds = settings.storage_max_items, settings.storage_ttl_image
        self._pruning = threading.Lock()
        self._next_pruning = 0.0
        self._written = 0
        with self._errors():
            self._files.makedirs(self._root, exist_ok=True)

    def put(self, key: str, data: bytes) -> None:
        """See `ImageStore.put`."""
        try:
            with self._errors():
                if self._moves:
                    with self._partial() as partial:
                        self._files.pipe_file(partial, data)
                        self._files.mv(partial, self._path(key))
                else:
                    self._files.pipe_file(self._path(key), data)
        finally:
            self._written += 1
            self._prune()  # all the more when there was no room

    def get(self, key: str) -> bytes | None:
        """See `ImageStore.get`."""
        with self._errors():
            try:
                if not self._is_young(self._path(key)):
                    return None
                return self._files.cat_file(self._path(key))  # type: ignore[no-any-return]
            except FileNotFoundError:
                return None

    def delete(self, key: str) -> bool:
        """See `ImageStore.delete`."""
        with self._errors():
            try:
                was_there = self._is_young(self._path(key))
                self._files.rm_file(self._path(key))
            except FileNotFoundError:
                return False
        return was_there

    def check(self) -> None:
        """Write a few bytes and take them away again; see `ImageStore.check`."""
        with self._errors(), self._partial() as probe:
            self._files.pipe_file(probe, b"imagegen")

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}{_ENDING}"

    @contextmanager
    def _partial(self) -> Iterator[str]:
        """A file beside the pictures, which goes in the end unless it was moved to its place."""
        path = f"{self._root}/{_PARTIAL}{secrets.token_hex(8)}"
        try:
            yield path
        finally:
            self._remove(path)

    def _modified(self, path: str) -> float:
        modified: datetime = self._files.modified(path)
        return (modified if modified.tzinfo else modified.replace(tzinfo=UTC)).timestamp()

    def _is_young(self, path: str) -> bool:
        return time.time() - self._modified(path) <= self._seconds

    def _prune(self) -> None:
        """Take away what is too old or too much, now and then, one thread at a time."""
        due = time.monotonic() > self._next_pruning or self._written > self._limit // 8
        if not due or not self._pruning.acquire(blocking=False):
            return
        try:
            self._written = 0
            self._next_pruning = time.monotonic() + _PRUNED_EVERY
            with self._errors():
                for path in self._superfluous():
                    self._remove(path)
        finally:
            self._pruning.release()

    def _superfluous(self) -> Iterator[str]:
        self._files.invalidate_cache()
        now = time.time()
        ages: list[tuple[float, str]] = []
        for file in self._files.ls(self._root, detail=True):
            if file["type"] != "file":
                continue
            try:
                ages.append((now - self._modified(file["name"]), file["name"]))
            except FileNotFoundError:
                continue  # another process was first
        kept = 0
        for age, path in sorted(ages):
            name = path.rpartition("/")[2]
            if name.startswith(_PARTIAL):
                if age > _PARTIAL_FOR:
                    yield path
            elif name.endswith(_ENDING):
                kept += 1
                if age > self._seconds or kept > self._limit:
                    yield path

    def _remove(self, path: str) -> None:
        try:
            self._files.rm_file(path)
        except FileNotFoundError:
            return  # another process was first

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Whatever goes wrong becomes a `StorageError`, but for a file that is not there."""
        try:
            yield
        except FileNotFoundError as error:
            raise StorageError(f"The storage {without_password(self._root)} is gone: make it again") from error
        except Exception as error:  # each kind of file system has errors of its own
            cause = getattr(error, "strerror", None) or error
            mend = _MENDS.get(getattr(error, "errno", None) or 0, "see whether it can be reached")
            raise StorageError(f"The storage {without_password(self._root)} does not work ({cause}): {mend}") from error


def _names(files: Any) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)
