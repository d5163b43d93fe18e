"""Shared parts of the hostile tests: a server in its own process, a health watch, and a second client."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx2 as httpx
import psutil
import pytest

from tests.server.conftest import LIMIT
from tests.server.processes import Process, serving

PROMPTLY = 1.0
"""Time limit of ``/health`` in seconds, whatever a client sends."""


class HealthWatch:
    """Polls ``/health`` of a server while a client attacks the server.

    Attributes:
        worst: The slowest response so far, in seconds.
        peak: The largest memory of the server's process so far, in bytes.
    """

    def __init__(self, url: str, pid: int | None = None) -> None:
        """Prepare to watch the server at `url`; `pid` is its process, to measure memory too."""
        self._url, self._process = url, psutil.Process(pid) if pid else None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="health-watch", daemon=True)
        self._failure: Exception | None = None
        self.worst = 0.0
        self.peak = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ending.set()
        self._thread.join()
        if kind is None and self._failure is not None:
            raise self._failure

    def _watch(self) -> None:
        try:
            with httpx.Client(base_url=self._url, timeout=LIMIT) as http:
                while not self._ending.is_set():
                    began = time.monotonic()
                    assert http.get("/health").status_code == 200
                    self.worst = max(self.worst, time.monotonic() - began)
                    if self._process is not None:
                        self.peak = max(self.peak, self._process.memory_info().rss)
                    self._ending.wait(0.02)
        except Exception as error:  # noqa: BLE001 - `__exit__` raises it in the test's own thread
            self._failure = error


class Attacked:
    """A server in its own process, with the clients for a hostile test.

    Attributes:
        process: The server.
        http: A client of the server.
    """

    def __init__(self, process: Process) -> None:
        self.process, self.http = process, process.http

    @property
    def url(self) -> str:
        return str(self.http.base_url).rstrip("/")

    @property
    def memory(self) -> int:
        """The memory of the server's process, in bytes."""
        return psutil.Process(self.process.process.pid).memory_info().rss

    def watch(self) -> HealthWatch:
        return HealthWatch(self.url, self.process.process.pid)

    def draw(self, **fields: object) -> httpx.Response:
        """Request a small picture as a second client."""
        body = {"prompt": "a star", "size": "64x64", "seed": 7, **fields}
        return httpx.post(f"{self.url}/generate", json=body, timeout=LIMIT)


StartAttacked = Callable[..., Attacked]


@pytest.fixture(scope="package")
def attacked(tmp_path_factory: pytest.TempPathFactory, sdxl_checkpoint: Path) -> Iterator[Attacked]:
    """A server with default settings, shared by all hostile tests: no test may change its state."""
    folder = tmp_path_factory.mktemp("attacked")
    with serving(folder, sdxl_checkpoint, OMP_NUM_THREADS="1") as process:
        process.until_ready()
        server = Attacked(process)
        assert server.draw().status_code == 200
        yield server


@pytest.fixture
def attack(tmp_path: Path, sdxl_checkpoint: Path) -> Iterator[StartAttacked]:
    """A function to start another server, with variables such as ``IMAGEGEN_API_KEYS="key"``."""
    with ExitStack() as stack:

        def start(**environ: str) -> Attacked:
            folder = tmp_path / f"server-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            process = stack.enter_context(serving(folder, sdxl_checkpoint, OMP_NUM_THREADS="1", **environ))
            process.until_ready()
            return Attacked(process)

        yield start
