"""The server when clients disconnect, its store fails, or its store is slow."""

from __future__ import annotations

import gc
import io
import json
import random
import socket
import struct
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import pytest
from PIL import Image

from imagegen_core import GenerateRequest, Job, OutOfMemoryError
from tests.engine.faults import Gate
from tests.server.conftest import LIMIT, Running, StartServer
from tests.storage.conftest import RedisServer, need_redis

CLIENTS = 200
CONCURRENT = 8
FOLLOWERS = 50
HEALTH_LIMIT = 0.3  # seconds; a blocked event loop would take the store's 0.5
_POOLED = ("AnyIO worker thread", "imagegen-encoder")  # pools keep a limited number of idle threads


@pytest.fixture
def redis_to_stop(tmp_path: Path) -> Iterator[RedisServer]:
    need_redis()
    redis_server = RedisServer(tmp_path)
    redis_server.start()
    yield redis_server
    redis_server.stop()


class SlowStore:
    """A store whose operations take half a second each."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def _wait(self, operation: str) -> None:
        time.sleep(0.5)
        self.calls[operation] += 1

    def put(self, key: str, data: bytes) -> None:
        self._wait("put")

    def get(self, key: str) -> bytes | None:
        self._wait("get")
        return None

    def delete(self, key: str) -> bool:
        self._wait("delete")
        return True

    def check(self) -> None:
        self._wait("check")


def _are_released(before: tuple[int, int]) -> bool:
    """Return whether the resources in use are at most `before`; an earlier test's may end meanwhile."""
    return all(now <= then for now, then in zip(_resources(), before, strict=True))


def _resources() -> tuple[int, int]:
    """Return the number of open descriptors, and of threads outside pools."""
    threads = [thread for thread in threading.enumerate() if not thread.name.startswith(_POOLED)]
    return psutil.Process().num_fds(), len(threads)


def _connect(server: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=LIMIT)


def _request(body: bytes) -> bytes:
    head = (
        "POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _body(seed: int) -> bytes:
    return json.dumps({"prompt": "a star", "size": "64x64", "num_inference_steps": 20, "seed": seed}).encode()


def _reset_on_close(connection: socket.socket) -> None:
    """Reset the connection when it is closed, like that of a crashed client."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _is_idle(server: Running) -> bool:
    return (server.report().running, server.report().waiting) == (0, 0)


def test_disconnecting_clients_leak_nothing(server: Running, tiny_worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    request = GenerateRequest(prompt="a star", size="64x64", seed=7)
    expected, _ = tiny_worker.run_job(Job(req=request))
    submitted = [threading.Event() for _ in range(CLIENTS)]
    steps: Counter[int] = Counter()
    submit = server.engine.submit

    def watch(request: Any, **options: Any) -> Any:
        ticket = submit(request, **options)
        submitted[request.seed].set()
        return ticket

    def count(states: Any) -> None:
        steps.update(state.request.seed for state in states)

    assert _draw(server) == expected
    before = _resources()
    with monkeypatch.context() as patched:
        patched.setattr(server.engine, "submit", watch)
        server.worker.before.update(step=count, trial=count)

        def disconnect(seed: int) -> None:
            rng = random.Random(seed)
            with _connect(server) as connection:
                connection.sendall(_request(_body(seed)))
                assert submitted[seed].wait(LIMIT)
                if seed % 2:
                    deadline = time.monotonic() + LIMIT
                    target = rng.randint(1, 5)
                    while steps[seed] < target:  # `count` is called as a step begins
                        assert time.monotonic() < deadline
                        time.sleep(0.0005)
                else:
                    time.sleep(rng.uniform(0, 0.05))
                if seed % 4 < 2:
                    _reset_on_close(connection)

        with ThreadPoolExecutor(CONCURRENT) as pool:
            list(pool.map(disconnect, range(CLIENTS)))
    server.until(lambda: _is_idle(server))
    report = server.report()
    assert report.cancelled + report.finished == CLIENTS + 1
    assert report.failed == 0
    assert report.cancelled > 0.75 * CLIENTS
    assert sum(steps.values()) < 0.75 * 20 * CLIENTS
    server.worker.before.clear()
    assert _draw(server) == expected
    server.until(lambda: _are_released(before))
    assert not server.app.state.context._tickets


def test_incomplete_requests_draw_nothing(server: Running) -> None:
    _draw(server)
    before = _resources()
    whole = _request(_body(7))
    for cut in range(1, len(whole), 5):
        with _connect(server) as connection:
            connection.sendall(whole[:cut])
            if cut % 2:
                _reset_on_close(connection)
    server.until(lambda: _are_released(before))
    report = server.report()
    assert (report.finished, report.cancelled, report.failed) == (1, 0, 0)
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_server_draws_without_redis_and_stores_once_redis_is_back(
    serve: StartServer, redis_to_stop: RedisServer
) -> None:
    server = serve(storage_provider="redis", storage_url=redis_to_stop.url)
    stored = server.draw()
    assert server.http.get(f"/storage/{stored.headers['X-LCM-Image-Key']}").content == stored.content
    redis_to_stop.stop()
    for _ in range(2):
        response = server.draw()
        assert (response.status_code, response.content) == (200, stored.content)
        assert "X-LCM-Image-Key" not in response.headers
    health = server.http.get("/storage/health")
    assert (health.status_code, health.json()["type"]) == (503, "storage")
    assert "does not answer" in health.json()["detail"]
    assert "see whether it runs" in health.json()["detail"]
    assert server.http.get(f"/storage/{stored.headers['X-LCM-Image-Key']}").status_code == 503
    assert 'imagegen_failures_total{kind="storage"} 2.0' in server.http.get("/metrics").text
    redis_to_stop.start()
    assert server.http.get("/storage/health").status_code == 200
    redrawn = server.draw()
    assert server.http.get(f"/storage/{redrawn.headers['X-LCM-Image-Key']}").content == stored.content


def test_job_continues_when_its_followers_disconnect(server: Running) -> None:
    gate = Gate(shut=True)
    _draw(server)
    server.worker.before["step"] = server.worker.before["trial"] = gate
    body = {"prompt": "a star", "size": "64x64", "seed": 7}
    job = httpx.post(f"{server.url}/v1/jobs", json=body, timeout=LIMIT).json()
    assert gate.reached.wait(LIMIT)
    posted = server.app.state.context.jobs.find(job["id"], "")
    before = _resources()

    def follow(number: int) -> None:
        with _connect(server) as connection:
            connection.sendall(f"GET {job['events']} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            received = b""
            while b"event: started" not in received:
                chunk = connection.recv(4096)
                assert chunk, received
                received += chunk
            if number % 2:
                _reset_on_close(connection)

    with ThreadPoolExecutor(CONCURRENT) as pool:
        list(pool.map(follow, range(FOLLOWERS)))
    server.until(lambda: _are_released(before))  # while the job is still running
    server.until(lambda: not posted.ticket.events._waiting)
    assert server.report().cancelled == 0
    gate.open()
    address = f"{server.url}/v1/jobs/{job['id']}"
    server.until(posted.result.done)
    assert httpx.get(address, timeout=LIMIT).json()["status"] == "done"
    server.worker.before.clear()
    assert httpx.get(f"{address}/image", timeout=LIMIT).content == _draw(server)
    server.until(lambda: _are_released(before))


@pytest.mark.parametrize("stage", ["group", "step", "finish"])
def test_failed_job_releases_its_state(server: Running, stage: str) -> None:
    states: list[weakref.ref[Any]] = []

    def fail(argument: Any) -> None:
        state = argument[0] if isinstance(argument, list) else argument
        states.append(weakref.ref(state))
        try:
            int("no memory")
        except ValueError as error:
            raise OutOfMemoryError("The memory did not take it") from error

    _draw(server)
    server.worker.before[stage] = fail
    job = server.http.post("/v1/jobs", json=json.loads(_body(7))).json()
    failed_job = server.until(lambda: (current := server.http.get(f"/v1/jobs/{job['id']}").json())["error"] and current)
    assert failed_job["status"] == "failed"
    server.worker.before.clear()
    _draw(server)
    gc.collect()
    assert [state() for state in states] == [None]


def test_finished_tickets_are_freed_without_the_garbage_collector(server: Running) -> None:
    tickets: list[weakref.ref[Any]] = []
    submit = server.app.state.context.submit

    def watch(*arguments: Any) -> Any:
        ticket = submit(*arguments)
        tickets.append(weakref.ref(ticket))
        return ticket

    server.app.state.context.submit = watch
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            _draw(server)
        assert len(tickets) == 5
        server.until(lambda: not any(ticket() for ticket in tickets[:-1]))
    finally:
        gc.enable()


def test_slow_store_and_upscaling_do_not_block_other_requests(server: Running) -> None:
    store = server.app.state.context.store = SlowStore()
    source = io.BytesIO()
    Image.radial_gradient("L").resize((1024, 1024)).convert("RGB").save(source, format="PNG")

    def enlarge() -> int:
        files = {"file": ("a.png", source.getvalue())}
        return httpx.post(f"{server.url}/superres", files=files, timeout=LIMIT).status_code

    def send(method: str, path: str, **options: Any) -> int:
        return httpx.request(method, f"{server.url}{path}", timeout=LIMIT, **options).status_code

    body = {"prompt": "a star", "size": "64x64"}
    assert server.http.get("/health").status_code == 200
    with ThreadPoolExecutor(CONCURRENT) as pool:
        futures = [
            pool.submit(send, "POST", "/generate", json=body),
            pool.submit(send, "POST", "/generate", json={**body, "superres": True}),
            pool.submit(send, "POST", "/v1/images/generations", json={**body, "response_format": "url"}),
            pool.submit(send, "PUT", "/storage/key", content=source.getvalue()),
            pool.submit(send, "GET", "/storage/key"),
            pool.submit(send, "DELETE", "/storage/key"),
            pool.submit(send, "GET", "/storage/health"),
            pool.submit(enlarge),
        ]
        durations = []
        while not all(future.done() for future in futures):
            start = time.perf_counter()
            assert server.http.get("/health").status_code == 200
            durations.append(time.perf_counter() - start)
        assert [future.result() for future in futures] == [200, 200, 200, 204, 404, 204, 200, 200]
    assert store.calls == {"put": 4, "get": 1, "delete": 1, "check": 1}
    assert len(durations) > 20
    assert max(durations) < HEALTH_LIMIT


def _draw(server: Running) -> bytes:
    """Draw a picture over a new connection, and close the connection."""
    body = {"prompt": "a star", "size": "64x64", "seed": 7}
    response = httpx.post(f"{server.url}/generate", json=body, timeout=LIMIT)
    assert response.status_code == 200
    return response.content
