"""Image stores of every kind, and a real Redis server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import fsspec
import pytest
import redis
from cachetools import TTLCache

from imagegen_core.plugins.registry import Registry
from imagegen_core.settings import Settings
from imagegen_core.storage import ImageStore

_START_LIMIT = 20.0


class RedisServer:
    """A Redis server on a free port, which tests can stop and start again."""

    def __init__(self, folder: Path, password: str | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"redis://{f':{password}@' if password else ''}127.0.0.1:{self.port}/0"
        self._password, self._folder = password, folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = self._folder / "redis.log"
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        command += ["--requirepass", self._password] if self._password else []
        with log.open("wb") as output:
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=output, stderr=output)
        deadline = time.monotonic() + _START_LIMIT
        with self.client() as client:
            while True:
                try:
                    client.ping()
                except redis.RedisError as error:
                    if self._process.poll() is not None or time.monotonic() > deadline:
                        self.stop()
                        raise RuntimeError(f"redis-server does not start: {log.read_text()}") from error
                    time.sleep(0.01)
                else:
                    return

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, retry=None)


def need_redis() -> None:
    """Skip the test if redis-server is missing; in CI, let it fail."""
    if shutil.which("redis-server"):
        return
    if os.environ.get("CI"):
        pytest.fail("redis-server is missing: CI must install it")
    pytest.skip("needs redis-server: apt install redis-server")


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    need_redis()
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_with_password(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that the test may stop and start; its password is ``sesame``."""
    need_redis()
    server = RedisServer(tmp_path, password="sesame")
    server.start()
    yield server
    server.stop()


@dataclass(frozen=True)
class Kind:
    """A kind of store: how to open stores of this kind, and how to age their pictures.

    Stores of the same kind share their pictures, except for `memory`.

    Attributes:
        name: Value of STORAGE_PROVIDER.
        url: Value of STORAGE_URL.
        age: Makes the picture of a key, and possibly all others, older by a number of seconds.
    """

    name: str
    url: str | None
    age: Callable[[str, float], None]

    def open(self, **options: Any) -> ImageStore:
        options = {"storage_provider": self.name, "storage_url": self.url, **options}
        return Registry.discover().store(self.name).load(Settings.load(environ={}, **options))


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def _memory(monkeypatch: pytest.MonkeyPatch) -> Kind:
    clock = Clock()
    monkeypatch.setattr("imagegen_core.storage.memory.TTLCache", partial(TTLCache, timer=clock))

    def age(key: str, seconds: float) -> None:
        clock.now += seconds

    return Kind("memory", None, age)


def _filesystem(folder: Path) -> Kind:
    def age(key: str, seconds: float) -> None:
        file = folder / f"{key}.picture"
        modified = file.stat().st_mtime - seconds
        os.utime(file, (modified, modified))

    return Kind("filesystem", str(folder), age)


def _fsspec(root: str) -> Kind:
    def age(key: str, seconds: float) -> None:
        fsspec.filesystem("memory").store[f"{root}/{key}.picture"].modified -= timedelta(seconds=seconds)

    return Kind("filesystem", f"memory:/{root}", age)


def _redis(server: RedisServer) -> Kind:
    def age(key: str, seconds: float) -> None:
        with server.client() as client:
            remaining = cast("int", client.pttl(f"imagegen:image:{key}"))
            client.pexpire(f"imagegen:image:{key}", remaining - round(seconds * 1000))

    return Kind("redis", server.url, age)


@pytest.fixture(params=["memory", "filesystem", "fsspec", "redis"])
def kind(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kind]:
    """Each kind of store in turn, without pictures."""
    match request.param:
        case "memory":
            yield _memory(monkeypatch)
        case "filesystem":
            yield _filesystem(tmp_path / "pictures")
        case "fsspec":
            root = f"/{uuid.uuid4()}"
            yield _fsspec(root)
            fsspec.filesystem("memory").rm(root, recursive=True)
        case "redis":
            server: RedisServer = request.getfixturevalue("redis_server")
            with server.client() as client:
                client.flushall()
            yield _redis(server)
