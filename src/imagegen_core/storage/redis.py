"""A store of pictures on a Redis server, shared by several processes and machines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import redis

from imagegen_core.errors import SettingsError, StorageError
from imagegen_core.redaction import redact
from imagegen_core.settings import Settings
from imagegen_core.storage.limits import OwnPictures

_PREFIX = "imagegen:image:"
_PATIENCE = 2.0  # seconds to wait for an answer


class RedisStore:
    """Store each picture under a key that expires; see `ImageStore`."""

    def __init__(self, settings: Settings) -> None:
        """Prepare the connection. It opens at first use, so that the server may be down now.

        Raises:
            SettingsError: The URL is no Redis URL.
        """
        self._own, self._seconds = OwnPictures(settings), settings.storage_ttl_image
        self._url = settings.storage_url or "redis://127.0.0.1:6379/0"
        try:
            self._server: Any = redis.Redis.from_url(
                self._url, socket_timeout=_PATIENCE, socket_connect_timeout=_PATIENCE
            )
        except ValueError as error:
            raise SettingsError(
                f"{settings.source('storage_url')}={redact(self._url)}: expected a URL such as redis://host:6379/0"
            ) from error

    def put(self, key: str, data: bytes) -> None:
        """See `ImageStore.put`."""
        self._own.check(data)
        with self._errors():
            self._server.set(_PREFIX + key, data, ex=self._seconds)
            if superfluous := self._own.add(key, len(data)):
                self._server.delete(*(_PREFIX + old.key for old in superfluous))

    def get(self, key: str) -> bytes | None:
        """See `ImageStore.get`."""
        with self._errors():
            return cast("bytes | None", self._server.get(_PREFIX + key))

    def delete(self, key: str) -> bool:
        """See `ImageStore.delete`."""
        with self._errors():
            self._own.discard(key)
            return bool(self._server.delete(_PREFIX + key))

    def check(self) -> None:
        """See `ImageStore.check`."""
        with self._errors():
            self._server.ping()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except redis.AuthenticationError as error:
            raise StorageError(
                f"{self._server_name} refuses the login ({redact(str(error))}): correct STORAGE_URL's password"
            ) from error
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise StorageError(
                f"{self._server_name} does not answer ({redact(str(error))}): see whether it runs"
            ) from error
        except redis.RedisError as error:
            raise StorageError(f"{self._server_name} refuses a command ({error}): correct its configuration") from error

    @property
    def _server_name(self) -> str:
        return f"Redis at {redact(self._url).removeprefix('redis://')}"
