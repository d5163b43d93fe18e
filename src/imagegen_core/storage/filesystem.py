"""A store of pictures as files, in a folder or any other file system of fsspec."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec

from imagegen_core.errors import SettingsError, StorageError
from imagegen_core.redaction import redact
from imagegen_core.settings import Settings
from imagegen_core.storage.limits import OwnPictures, Superfluous

logger = logging.getLogger(__name__)

_ENDING = ".picture"  # marks the store's files; other files in the folder are left alone
_PARTIAL = ".part-"
_PRUNED_EVERY = 60.0  # seconds: listing a folder, or a bucket, takes time
_PARTIAL_FOR = 600.0  # seconds until the remains of an interrupted write are removed
_OWNERS_FILE, _OWNERS_FOLDER = 0o600, 0o700
_WRITABLE = "name a folder, or an object store that pictures can be written to"
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
    """Store each picture in a file, its key followed by ``.picture``; see `ImageStore`.

    In a folder, a picture is written next to its place and then moved, which is atomic. Object stores write atomically.
    In a folder, a file's time of modification is the time of its expiry, so that servers with other settings respect
    it. Only the file's owner can read it, whatever the umask.
    """

    def __init__(self, settings: Settings) -> None:
        """Open the folder, and create it if it is missing.

        Raises:
            SettingsError: No folder is configured, its kind needs a package that is not installed, or its kind is
                read-only, such as ``zip://``.
            StorageError: It cannot be created.
        """
        if not settings.storage_url:
            raise SettingsError(
                "STORAGE_PROVIDER=filesystem needs to know where: set STORAGE_URL to a folder, or to a URL such as "
                "s3://bucket/pictures"
            )
        try:
            # A cached listing would hide pictures that other processes add to a bucket.
            self._files, root = fsspec.url_to_fs(settings.storage_url, use_listings_cache=False)
        except OSError as error:
            said = f"{settings.source('storage_url')}={redact(settings.storage_url)}"
            cause = redact(str(error))
            raise StorageError(f"{said} cannot be opened ({cause}): {_mend(error)}") from error
        except Exception as error:  # each kind of file system raises its own errors
            said = f"{settings.source('storage_url')}={redact(settings.storage_url)}"
            raise SettingsError(f"{said}: {redact(str(error))}; {_WRITABLE}") from error
        self._root = root.rstrip("/")
        self._is_folder = "file" in _names(self._files)
        self._own, self._seconds = OwnPictures(settings), settings.storage_ttl_image
        self._pruning = threading.Lock()
        self._next_pruning = 0.0
        self._make()
        self._probe(settings)

    def put(self, key: str, data: bytes) -> None:
        """See `ImageStore.put`."""
        self._own.check(data)
        try:
            with self._errors():
                version = self._write(self._path(key), data)
                self._let_go(self._own.add(key, len(data), version))
        finally:
            self._prune()  # also, and above all, if there was no room

    def get(self, key: str) -> bytes | None:
        """See `ImageStore.get`."""
        with self._errors():
            try:
                if self._is_over(self._path(key)):
                    return None
                return self._files.cat_file(self._path(key))  # type: ignore[no-any-return]
            except FileNotFoundError:
                return None

    def delete(self, key: str) -> bool:
        """See `ImageStore.delete`."""
        with self._errors():
            try:
                was_there = not self._is_over(self._path(key))
                self._files.rm_file(self._path(key))
                self._own.discard(key)
            except FileNotFoundError:
                return False
        return was_there

    def check(self) -> None:
        """Write a few bytes, read them, and remove them; see `ImageStore.check`."""
        with self._errors(), self._partial() as probe:
            self._files.pipe_file(probe, b"imagegen")
            self._modified(probe)
            self._files.cat_file(probe)

    def _write(self, path: str, data: bytes) -> float:
        """Write a picture atomically, and return its time of modification, or 0 if it is gone already."""
        if not self._is_folder:
            self._files.pipe_file(path, data)
            try:
                return self._modified(path)
            except FileNotFoundError:
                return 0.0
        with self._partial() as partial:
            self._files.pipe_file(partial, data)
            os.utime(partial, (time.time(), time.time() + self._seconds))
            version = self._modified(partial)
            self._files.mv(partial, path)
        return version

    def _make(self) -> None:
        """Create the folder if it is missing, accessible to its owner only."""
        with self._errors():
            if not self._is_folder:
                self._files.makedirs(self._root, exist_ok=True)
            elif not Path(self._root).is_dir():
                Path(self._root).mkdir(mode=_OWNERS_FOLDER, parents=True, exist_ok=True)
                Path(self._root).chmod(_OWNERS_FOLDER)

    def _probe(self, settings: Settings) -> None:
        """Refuse a read-only kind of storage; a temporary failure only logs a warning.

        Raises:
            SettingsError: The storage is of such a kind.
        """
        try:
            self.check()
        except StorageError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and not isinstance(cause, ValueError):
                logger.warning("%s", error)
                return
            raise SettingsError(
                f"{settings.source('storage_url')}={redact(settings.storage_url or '')} cannot keep pictures "
                f"({type(cause).__name__}: {redact(str(cause))}): {_WRITABLE}"
            ) from error

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}{_ENDING}"

    @contextlib.contextmanager
    def _partial(self) -> Iterator[str]:
        """Provide a file next to the pictures, and remove it at the end unless it was moved to its place."""
        path = f"{self._root}/{_PARTIAL}{secrets.token_hex(8)}"
        try:
            if self._is_folder:
                Path(path).touch(exist_ok=False)
                Path(path).chmod(_OWNERS_FILE)
            yield path
        finally:
            self._remove(path)

    def _modified(self, path: str) -> float:
        modified: datetime = self._files.modified(path)
        return (modified if modified.tzinfo else modified.replace(tzinfo=UTC)).timestamp()

    def _is_over(self, path: str) -> bool:
        """Return whether a picture has expired."""
        return time.time() > self._modified(path) + (0 if self._is_folder else self._seconds)

    def _let_go(self, pictures: Iterable[Superfluous]) -> None:
        """Remove pictures, unless another store replaced them."""
        for picture in pictures:
            with contextlib.suppress(FileNotFoundError):
                if self._modified(self._path(picture.key)) == picture.version:
                    self._remove(self._path(picture.key))

    def _prune(self) -> None:
        """Remove expired pictures from time to time, one thread at a time."""
        if time.monotonic() < self._next_pruning or not self._pruning.acquire(blocking=False):
            return
        try:
            self._next_pruning = time.monotonic() + _PRUNED_EVERY
            with self._errors():
                for path in self._over():
                    self._remove(path)
        finally:
            self._pruning.release()

    def _over(self) -> Iterator[str]:
        """Yield the expired pictures, and the remains of interrupted writes."""
        self._files.invalidate_cache()
        for file in self._files.ls(self._root, detail=True):
            path = file["name"]
            name = path.rpartition("/")[2]
            try:
                if name.startswith(_PARTIAL):
                    if time.time() - self._modified(path) > _PARTIAL_FOR:
                        yield path
                elif name.endswith(_ENDING) and file["type"] == "file" and self._is_over(path):
                    yield path
            except FileNotFoundError:
                continue  # another process was first

    def _remove(self, path: str) -> None:
        try:
            self._files.rm_file(path)
        except FileNotFoundError:
            return  # another process was first

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn every error into a `StorageError`."""
        try:
            yield
        except FileNotFoundError as error:
            raise StorageError(f"The storage {redact(self._root)} is gone: make it again") from error
        except Exception as error:  # each kind of file system raises its own errors
            cause = redact(str(getattr(error, "strerror", None) or error))
            raise StorageError(f"The storage {redact(self._root)} does not work ({cause}): {_mend(error)}") from error


def _mend(error: Exception) -> str:
    return _MENDS.get(getattr(error, "errno", None) or 0, "see whether it can be reached")


def _names(files: Any) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)
