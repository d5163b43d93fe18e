"""The line of pictures that are to be enlarged: its limits, its deadline, and its end."""

from __future__ import annotations

import asyncio
import base64
import io
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2 as httpx
import pytest
from PIL import Image
from starlette.requests import Request

from imagegen_core.errors import QueueFullError
from tests.engine.faults import Gate
from tests.server.conftest import LIMIT, HeldLanczos, Running, StartServer


def _png(width: int = 16, height: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, format="PNG")
    return buffer.getvalue()


def _post(server: Running, **headers: str) -> httpx.Response:
    return httpx.post(f"{server.url}/superres", files={"file": ("a.png", _png())}, headers=headers, timeout=LIMIT)


def _open(server: Running) -> int:
    return len(server.app.state.context.upscalings.open())


def _hang_up(server: Running, path: str, body: bytes, kind: str) -> socket.socket:
    """A request that is sent whole, and whose answer nobody has read yet."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def _form(png: bytes) -> tuple[bytes, str]:
    request = httpx.Request("POST", "http://x", files={"file": ("a.png", png)}, data={"magnitude": "3"})
    return request.read(), request.headers["content-type"]


def test_more_than_the_queue_takes_is_a_429_that_says_when(serve: StartServer, held_lanczos: HeldLanczos) -> None:
    server = serve(upscaler="lanczos", queue_max=2)
    with ThreadPoolExecutor() as clients:
        running = [clients.submit(_post, server) for _ in range(3)]  # one is begun, two wait
        server.until(lambda: _open(server) == 3)
        refused = _post(server)
        drawn = server.draw(superres=True)
        held_lanczos.gate.open()
        assert [one.result().status_code for one in running] == [200] * 3
    assert (refused.status_code, refused.json()["type"]) == (429, "queue_full")
    assert int(refused.headers["Retry-After"]) >= 1
    assert drawn.status_code == 429
    assert server.report().finished == 0  # the picture was refused before it was drawn


def test_pictures_that_wait_in_memory_are_weighed(serve: StartServer, held_lanczos: HeldLanczos) -> None:
    server = serve(upscaler="lanczos", max_body_bytes=2**20)
    padded = {"image": base64.b64encode(_png() + bytes(600_000)).decode()}

    def post(_: int) -> int:
        return httpx.post(f"{server.url}/sdapi/v1/extra-single-image", json=padded, timeout=LIMIT).status_code

    with ThreadPoolExecutor(16) as clients:
        asked = [clients.submit(post, number) for number in range(16)]  # of 1.4 MB each, and 8 MiB may wait
        server.until(lambda: any(one.done() for one in asked))
        assert {one.result() for one in asked if one.done()} == {429}
        assert _open(server) <= 6
        held_lanczos.gate.open()
        assert {one.result() for one in asked} == {200, 429}


def test_requests_that_come_at_once_do_not_overfill_the_queue(serve: StartServer) -> None:
    context = serve(queue_max=2).app.state.context
    gate = Gate(shut=True)

    async def receive() -> Any:
        await asyncio.Event().wait()  # the client stays

    async def submit() -> list[Any]:
        request = Request({"type": "http"}, receive)
        tasks = [asyncio.ensure_future(context.upscaled(request, "a client", lambda _: gate())) for _ in range(9)]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=LIMIT)
        gate.open()
        assert {type(task.exception()) for task in done} == {QueueFullError}
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(submit())
    assert sum(isinstance(result, QueueFullError) for result in results) >= 6  # one begins, two wait


def test_a_key_has_its_share_of_upscalings_too(serve: StartServer, held_lanczos: HeldLanczos) -> None:
    server = serve(upscaler="lanczos", queue_per_key=1, api_keys=["one", "other"])
    with ThreadPoolExecutor() as clients:
        running = clients.submit(_post, server, **{"X-API-Key": "one"})
        server.until(lambda: _open(server) == 1)
        assert _post(server, **{"X-API-Key": "one"}).status_code == 429
        other = clients.submit(_post, server, **{"X-API-Key": "other"})
        server.until(lambda: _open(server) == 2)
        held_lanczos.gate.open()
        assert running.result().status_code == other.result().status_code == 200
    assert _post(server, **{"X-API-Key": "one"}).status_code == 200


@pytest.mark.parametrize("route", ["/superres", "/sdapi/v1/extra-single-image", "/generate"])
def test_a_client_that_hangs_up_stops_its_upscaling_at_the_next_pass(
    serve: StartServer, held_lanczos: HeldLanczos, route: str
) -> None:
    server = serve(upscaler="lanczos")
    bodies: dict[str, tuple[bytes, str]] = {
        "/superres": _form(_png()),
        "/sdapi/v1/extra-single-image": (
            httpx.Request("POST", "http://x", json={"image": _base64(_png()), "upscaling_resize": 8}).read(),
            "application/json",
        ),
        "/generate": (
            b'{"prompt": "a star", "size": "64x64", "superres": true, "superres_magnitude": 3}',
            "application/json",
        ),
    }
    connection = _hang_up(server, route, *bodies[route])
    assert held_lanczos.gate.reached.wait(LIMIT)
    connection.close()
    server.until(lambda: _open(server) == 0)
    held_lanczos.let_go()
    assert held_lanczos.passes == 1


def test_those_who_hang_up_while_they_wait_leave_the_line(serve: StartServer, held_lanczos: HeldLanczos) -> None:
    server = serve(upscaler="lanczos", queue_max=64)
    connections = [_hang_up(server, "/superres", *_form(_png())) for _ in range(64)]
    server.until(lambda: _open(server) == 64)
    for connection in connections:
        connection.close()
    server.until(lambda: _open(server) == 0)
    for route in ("/storage/a", "/metrics"):
        began = time.monotonic()
        server.http.get(route)
        assert time.monotonic() - began < 1
    held_lanczos.let_go()
    assert held_lanczos.passes == 1


@pytest.mark.parametrize("superres", [False, True])
def test_an_upscaling_that_is_late_is_a_504_in_time(
    serve: StartServer, held_lanczos: HeldLanczos, superres: bool
) -> None:
    server = serve(upscaler="lanczos", default_timeout=1.5)
    began = time.monotonic()
    answer = server.draw(superres=True) if superres else _post(server)
    assert time.monotonic() - began < 3
    assert (answer.status_code, answer.json()["type"]) == (504, "deadline")
    assert _open(server) == 0
    assert 'imagegen_failures_total{kind="deadline"} 1.0' in server.http.get("/metrics").text


def test_an_upscaling_that_fails_is_reported_once(
    serve: StartServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a plugin's fault")

    server = serve(upscaler="lanczos")
    monkeypatch.setattr("imagegen_core.images.upscaling.Lanczos.enlarge", fail)
    assert _post(server).status_code == 500
    assert "never retrieved" not in caplog.text
    monkeypatch.undo()
    assert _post(server).status_code == 200


def test_no_new_upscaling_begins_while_the_server_stops(serve: StartServer) -> None:
    server = serve(upscaler="lanczos")
    server.app.state.context.mode_manager.stop_accepting()
    answer = _post(server)
    assert (answer.status_code, answer.json()["type"]) == (503, "not_ready")


def test_the_form_takes_one_file(serve: StartServer) -> None:
    server = serve(upscaler="lanczos")
    files = [("file", ("a.png", _png())), ("file", ("b.png", _png()))]
    answer = server.http.post("/superres", files=files)
    assert answer.status_code == 400
    assert "Too many files" in answer.json()["detail"]


def test_a_form_that_cannot_be_kept_is_a_storage_error(serve: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(upscaler="lanczos")
    monkeypatch.setattr("tempfile.tempdir", "/proc/nowhere")
    large = Image.effect_noise((1200, 1200), 100).convert("RGB")
    buffer = io.BytesIO()
    large.save(buffer, format="PNG")
    answer = server.http.post("/superres", files={"file": ("a.png", buffer.getvalue())})
    assert (answer.status_code, answer.json()["type"]) == (503, "storage"), answer.text
    assert "set TMPDIR to a folder that can be written to" in answer.json()["detail"]


def _base64(data: bytes) -> str:

    return base64.b64encode(data).decode()
