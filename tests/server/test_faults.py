"""What a server does when its clients go, when its store goes, and when its store is slow."""

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
AT_A_TIME = 8
LEAVING = 50
ANSWERS_WITHIN = 0.3  # seconds: a loop that a store held up would take its 0.5
_POOLED = ("AnyIO worker thread", "imagegen-encoder")  # kept for what comes next, up to a number


@pytest.fixture
def redis_to_stop(tmp_path: Path) -> Iterator[RedisServer]:
    need_redis()
    redis_server = RedisServer(tmp_path)
    redis_server.start()
    yield redis_server
    redis_server.stop()


class Slow:
    """A store whose every answer takes half a second."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def _answer(self, call: str) -> None:
        time.sleep(0.5)
        self.calls[call] += 1

    def put(self, key: str, data: bytes) -> None:
        self._answer("put")

    def get(self, key: str) -> bytes | None:
        self._answer("get")
        return None

    def delete(self, key: str) -> bool:
        self._answer("delete")
        return True

    def check(self) -> None:
        self._answer("check")


def _none_more_than(before: tuple[int, int]) -> bool:
    """Whether no more is left than there was; less, where an earlier test's went meanwhile."""
    return all(now <= then for now, then in zip(_left(), before, strict=True))


def _left() -> tuple[int, int]:
    """Open descriptors, and threads that belong to no pool."""
    threads = [thread for thread in threading.enumerate() if not thread.name.startswith(_POOLED)]
    return psutil.Process().num_fds(), len(threads)


def _dial(server: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=LIMIT)


def _request(body: bytes) -> bytes:
    head = (
        "POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _body(seed: int) -> bytes:
    return json.dumps({"prompt": "a star", "size": "64x64", "num_inference_steps": 20, "seed": seed}).encode()


def _reset_on_close(line: socket.socket) -> None:
    """Have the connection end as that of a client that crashed."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _idle(server: Running) -> bool:
    return (server.report().running, server.report().waiting) == (0, 0)


def test_hundreds_that_hang_up_leave_nothing_behind(
    server: Running, tiny_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = GenerateRequest(prompt="a star", size="64x64", seed=7)
    alone, _ = tiny_worker.run_job(Job(req=request))
    asked = [threading.Event() for _ in range(CLIENTS)]
    steps: Counter[int] = Counter()
    submit = server.engine.submit

    def watch(request: Any, **given: Any) -> Any:
        ticket = submit(request, **given)
        asked[request.seed].set()
        return ticket

    def count(states: Any) -> None:
        steps.update(state.request.seed for state in states)

    assert _draw(server) == alone
    before = _left()
    with monkeypatch.context() as patched:
        patched.setattr(server.engine, "submit", watch)
        server.worker.before.update(step=count, trial=count)

        def hang_up(seed: int) -> None:
            moment = random.Random(seed)
            with _dial(server) as line:
                line.sendall(_request(_body(seed)))
                assert asked[seed].wait(LIMIT)
                if seed % 2:
                    ends = time.monotonic() + LIMIT
                    wanted = moment.randint(1, 5)
                    while steps[seed] < wanted:  # `count` is called as a step begins
                        assert time.monotonic() < ends
                        time.sleep(0.0005)
                else:
                    time.sleep(moment.uniform(0, 0.05))
                if seed % 4 < 2:
                    _reset_on_close(line)

        with ThreadPoolExecutor(AT_A_TIME) as pool:
            list(pool.map(hang_up, range(CLIENTS)))
    server.until(lambda: _idle(server))
    report = server.report()
    assert report.cancelled + report.finished == CLIENTS + 1
    assert report.failed == 0
    assert report.cancelled > 0.75 * CLIENTS
    assert sum(steps.values()) < 0.75 * 20 * CLIENTS
    server.worker.before.clear()
    assert _draw(server) == alone
    server.until(lambda: _none_more_than(before))
    assert not server.app.state.context._tickets


def test_who_hangs_up_while_asking_has_nothing_drawn(server: Running) -> None:
    _draw(server)
    before = _left()
    whole = _request(_body(7))
    for cut in range(1, len(whole), 5):
        with _dial(server) as line:
            line.sendall(whole[:cut])
            if cut % 2:
                _reset_on_close(line)
    server.until(lambda: _none_more_than(before))
    report = server.report()
    assert (report.finished, report.cancelled, report.failed) == (1, 0, 0)
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_without_its_redis_a_server_draws_and_with_it_again_stores(
    serve: StartServer, redis_to_stop: RedisServer
) -> None:
    server = serve(storage_provider="redis", storage_url=redis_to_stop.url)
    stored = server.draw()
    assert server.http.get(f"/storage/{stored.headers['X-LCM-Image-Key']}").content == stored.content
    redis_to_stop.stop()
    for _ in range(2):
        answer = server.draw()
        assert (answer.status_code, answer.content) == (200, stored.content)
        assert "X-LCM-Image-Key" not in answer.headers
    health = server.http.get("/storage/health")
    assert (health.status_code, health.json()["type"]) == (503, "storage")
    assert "does not answer" in health.json()["detail"]
    assert "see whether it runs" in health.json()["detail"]
    assert server.http.get(f"/storage/{stored.headers['X-LCM-Image-Key']}").status_code == 503
    assert 'imagegen_failures_total{kind="storage"} 2.0' in server.http.get("/metrics").text
    redis_to_stop.start()
    assert server.http.get("/storage/health").status_code == 200
    again = server.draw()
    assert server.http.get(f"/storage/{again.headers['X-LCM-Image-Key']}").content == stored.content


def test_a_job_goes_on_when_those_who_follow_it_leave(server: Running) -> None:
    gate = Gate(shut=True)
    _draw(server)
    server.worker.before["step"] = server.worker.before["trial"] = gate
    body = {"prompt": "a star", "size": "64x64", "seed": 7}
    job = httpx.post(f"{server.url}/v1/jobs", json=body, timeout=LIMIT).json()
    assert gate.reached.wait(LIMIT)
    posted = server.app.state.context.jobs.find(job["id"], "")
    before = _left()

    def follow(number: int) -> None:
        with _dial(server) as line:
            line.sendall(f"GET {job['events']} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            heard = b""
            while b"event: started" not in heard:
                more = line.recv(4096)
                assert more, heard
                heard += more
            if number % 2:
                _reset_on_close(line)

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        list(pool.map(follow, range(LEAVING)))
    server.until(lambda: _none_more_than(before))  # while the job is still drawn
    server.until(lambda: not posted.ticket.events._waiting)
    assert server.report().cancelled == 0
    gate.open()
    address = f"{server.url}/v1/jobs/{job['id']}"
    server.until(posted.result.done)
    assert httpx.get(address, timeout=LIMIT).json()["status"] == "done"
    server.worker.before.clear()
    assert httpx.get(f"{address}/image", timeout=LIMIT).content == _draw(server)
    server.until(lambda: _none_more_than(before))


@pytest.mark.parametrize("stage", ["group", "step", "finish"])
def test_a_job_that_failed_is_kept_without_the_memory_it_was_drawn_in(server: Running, stage: str) -> None:
    states: list[weakref.ref[Any]] = []

    def fail(given: Any) -> None:
        state = given[0] if isinstance(given, list) else given
        states.append(weakref.ref(state))
        try:
            int("no memory")
        except ValueError as error:
            raise OutOfMemoryError("The memory did not take it") from error

    _draw(server)
    server.worker.before[stage] = fail
    job = server.http.post("/v1/jobs", json=json.loads(_body(7))).json()
    told = server.until(lambda: (now := server.http.get(f"/v1/jobs/{job['id']}").json())["error"] and now)
    assert told["status"] == "failed"
    server.worker.before.clear()
    _draw(server)
    gc.collect()
    assert [state() for state in states] == [None]


def test_what_was_asked_for_and_fetched_needs_no_collector_to_go(server: Running) -> None:
    tickets: list[weakref.ref[Any]] = []
    submit = server.app.state.context.submit

    def watch(*given: Any) -> Any:
        ticket = submit(*given)
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


def test_a_slow_store_and_an_upscaling_hold_nobody_up(server: Running) -> None:
    store = server.app.state.context.store = Slow()
    source = io.BytesIO()
    Image.radial_gradient("L").resize((1024, 1024)).convert("RGB").save(source, format="PNG")

    def enlarge() -> int:
        files = {"file": ("a.png", source.getvalue())}
        return httpx.post(f"{server.url}/superres", files=files, timeout=LIMIT).status_code

    def ask(method: str, path: str, **given: Any) -> int:
        return httpx.request(method, f"{server.url}{path}", timeout=LIMIT, **given).status_code

    body = {"prompt": "a star", "size": "64x64"}
    assert server.http.get("/health").status_code == 200
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        running = [
            pool.submit(ask, "POST", "/generate", json=body),
            pool.submit(ask, "POST", "/generate", json={**body, "superres": True}),
            pool.submit(ask, "POST", "/v1/images/generations", json={**body, "response_format": "url"}),
            pool.submit(ask, "PUT", "/storage/key", content=source.getvalue()),
            pool.submit(ask, "GET", "/storage/key"),
            pool.submit(ask, "DELETE", "/storage/key"),
            pool.submit(ask, "GET", "/storage/health"),
            pool.submit(enlarge),
        ]
        took = []
        while not all(one.done() for one in running):
            began = time.perf_counter()
            assert server.http.get("/health").status_code == 200
            took.append(time.perf_counter() - began)
        assert [one.result() for one in running] == [200, 200, 200, 204, 404, 204, 200, 200]
    assert store.calls == {"put": 4, "get": 1, "delete": 1, "check": 1}
    assert len(took) > 20
    assert max(took) < ANSWERS_WITHIN


def _draw(server: Running) -> bytes:
    """A picture, over a connection that is closed afterwards."""
    body = {"prompt": "a star", "size": "64x64", "seed": 7}
    answer = httpx.post(f"{server.url}/generate", json=body, timeout=LIMIT)
    assert answer.status_code == 200
    return answer.content
