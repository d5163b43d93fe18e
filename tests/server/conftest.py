"""A real server on a real port, with an engine whose steps a test can hold."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import uvicorn

from imagegen_core import LocalEngine, Settings
from imagegen_core.images.upscaling import Lanczos
from imagegen_core.server import create_app
from imagegen_core.server.connection_limits import ConnectionLimits
from imagegen_core.server.connections import ServerConfig
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.engine.faults import Gate, Watched
from tests.waiting import LIMIT, until


@pytest.fixture(scope="session")
def tiny_worker(sdxl_checkpoint: Path) -> Any:
    return DiffusersSDXLCudaWorker(settings=Settings(model=str(sdxl_checkpoint), device="cpu", dtype="fp32"))


@dataclass
class Running:
    """A server with its engine, the engine's worker, and a client."""

    url: str
    app: Any
    worker: Watched
    engine: LocalEngine
    http: httpx.Client

    def draw(self, **fields: Any) -> httpx.Response:
        return self.http.post("/generate", json={"prompt": "a star", "size": "64x64", "seed": 7, **fields})

    def report(self) -> Any:
        return self.engine.report()

    def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until `condition` holds, and return its value."""
        return until(condition)


StartServer = Callable[..., Running]


@contextlib.contextmanager
def running(tiny_worker: Any, queue_limit: int = 64, **settings: Any) -> Iterator[Running]:
    """Run a server with a worker and given settings."""
    worker = Watched(tiny_worker)
    engine = LocalEngine(worker, previews=True, queue_limit=queue_limit)
    with contextlib.ExitStack() as stack:
        stack.callback(engine.close, drain=False)
        app = create_app(Settings.load(environ={}, **settings), engine)
        url = stack.enter_context(listening(app, ConnectionLimits.of(app.state.context.settings)))
        http = stack.enter_context(httpx.Client(base_url=url, timeout=LIMIT))
        yield Running(url, app, worker, engine, http)


@pytest.fixture
def serve(tiny_worker: Any) -> Iterator[StartServer]:
    """Return a function that starts servers with given settings; they stop after the test."""
    with contextlib.ExitStack() as stack:

        def start(queue_limit: int = 64, **settings: Any) -> Running:
            return stack.enter_context(running(tiny_worker, queue_limit, **settings))

        yield start


@pytest.fixture
def server(serve: StartServer) -> Running:
    return serve()


class HeldLanczos:
    """Lanczos interpolation that waits at a gate before each pass.

    Attributes:
        gate: The gate; initially shut.
        passes: The number of started passes.
    """

    def __init__(self) -> None:
        self.gate = Gate(shut=True)
        self.passes = 0

    def enlarge(self, upscaler: Lanczos, pixels: Any) -> Any:
        self.passes += 1
        self.gate()
        return _LANCZOS(upscaler, pixels)

    def let_go(self) -> None:
        """Open the gate, and wait for the running enlargements."""
        self.gate.open()
        for thread in [thread for thread in threading.enumerate() if thread.name == "imagegen-upscaler"]:
            thread.join(LIMIT)


_LANCZOS = Lanczos.enlarge


@pytest.fixture
def held_lanczos(monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldLanczos]:
    """Make the upscaler ``lanczos`` wait at a gate."""
    held = HeldLanczos()
    monkeypatch.setattr(Lanczos, "enlarge", lambda *arguments: held.enlarge(*arguments))  # noqa: PLW0108 - a function becomes a method of the upscaler
    yield held
    held.let_go()


@contextlib.contextmanager
def listening(app: Any, limits: ConnectionLimits | None = None, **options: Any) -> Iterator[str]:
    """Serve `app` on a thread with `options` for uvicorn, and yield its address."""
    limits = limits or ConnectionLimits.of(Settings())
    uvicorn_server = uvicorn.Server(ServerConfig(app, limits, port=0, timeout_graceful_shutdown=1, **options))
    thread = threading.Thread(target=uvicorn_server.run)
    thread.start()
    try:
        until(lambda: uvicorn_server.started or not thread.is_alive())
        assert uvicorn_server.started, "the server did not start"
        yield f"http://127.0.0.1:{uvicorn_server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        uvicorn_server.should_exit = True
        thread.join()
