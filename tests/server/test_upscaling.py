"""The queue of pictures to enlarge: its limits, its deadline and its shutdown."""

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


def _open_upscalings(server: Running) -> int:
    return len(server.app.state.context.upscalings.open())


def _send(server: Running, path: str, body: bytes, kind: str) -> socket.socket:
    """Send a whole request, and return the connection with its response unread."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def _form(png: bytes) -> tuple[bytes, str]:
    request = httpx.Request("POST", "http://x", files={"file": ("a.png", png)}, data={"magnitude": "3"})
    return request.read(), request.headers["content-type"]


def test_full_queue_is_a_429_with_retry_after(serve: StartServer, held_lanczos: HeldLanczos) -> None:
    server = serve(upscaler="lanczos", queue_max=2)
    with ThreadPoolExecutor() as clients:
        futures = [clients.submit(_post, server) for _ in range(3)]  # one is running, two wait
        server.until(lambda: _open_upscalings(server) == 3)
        refused = _post(server)
        response = server.draw(superres=True)
        held_lanczos.gate.open()
        assert [future.result().status_code for future in futures] == [200] * 3
    assert (refused.status_code, refused.json()["type"]) == (429, "queue_full")
    assert int(refused.headers["Retry-After"]) >= 1
    assert response.status_code == 429
    assert server.report().finished == 0  # the picture was refused before it was drawn


def test_total_bytes_of_waiting_pictures_are_limited(serve: StartServer, held_lanczos: HeldLanczos) -> None:
    server = serve(upscaler="lanczos", max_body_bytes=2**20)
    padded = {"image": base64.b64encode(_png() + bytes(600_000)).decode()}

    def post(_: int) -> int:
        return httpx.post(f"{server.url}/sdapi/v1/extra-single-image", json=padded, timeout=LIMIT).status_code

    with ThreadPoolExecutor(16) as clients:
        futures = [clients.submit(post, number) for number in range(16)]  # 1.4 MB each; 8 MiB may wait
        server.until(lambda: any(future.done() for future in futures))
        assert {future.result() for future in futures if future.done()} == {429}
        assert _open_upscalings(server) <= 6
        held_lanczos.gate.open()
        assert {future.result() for future in futures} == {200, 429}


def test_simultaneous_requests_do_not_overfill_the_queue(serve: StartServer) -> None:
    context = serve(queue_max=2).app.state.context
    gate = Gate(shut=True)

    async def receive() -> Any:
        await asyncio.Event().wait()  # the client stays connected

    async def submit() -> list[Any]:
        request = Request({"type": "http"}, receive)
        tasks = [asyncio.ensure_future(context.upscaled(request, "a client", lambda _: gate())) for _ in range(9)]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=LIMIT)
        gate.open()
        assert {type(task.exception()) for task in done} == {QueueFullError}
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(submit())
    assert sum(isinstance(result, QueueFullError) for result in results) >= 6  # one is running, two wait


def test_each_key_has_its_own_limit_of_upscalings(serve: StartServer, held_lanczos: HeldLanczos) -> None:
    server = serve(upscaler="lanczos", queue_per_key=1, api_keys=["one", "other"])
    with ThreadPoolExecutor() as clients:
        running = clients.submit(_post, server, **{"X-API-Key": "one"})
        server.until(lambda: _open_upscalings(server) == 1)
        assert _post(server, **{"X-API-Key": "one"}).status_code == 429
        other = clients.submit(_post, server, **{"X-API-Key": "other"})
        server.until(lambda: _open_upscalings(server) == 2)
        held_lanczos.gate.open()
        assert running.result().status_code == other.result().status_code == 200
    assert _post(server, **{"X-API-Key": "one"}).status_code == 200


@pytest.mark.parametrize("route", ["/superres", "/sdapi/v1/extra-single-image", "/generate"])
def test_disconnect_stops_the_upscaling_at_the_next_pass(
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
    connection = _send(server, route, *bodies[route])
    assert held_lanczos.gate.reached.wait(LIMIT)
    connection.close()
    server.until(lambda: _open_upscalings(server) == 0)
    held_lanczos.let_go()
    assert held_lanczos.passes == 1


def test_disconnected_clients_leave_the_queue(serve: StartServer, held_lanczos: HeldLanczos) -> None:
    server = serve(upscaler="lanczos", queue_max=64)
    connections = [_send(server, "/superres", *_form(_png())) for _ in range(64)]
    server.until(lambda: _open_upscalings(server) == 64)
    for connection in connections:
        connection.close()
    server.until(lambda: _open_upscalings(server) == 0)
    for route in ("/storage/a", "/metrics"):
        start = time.monotonic()
        server.http.get(route)
        assert time.monotonic() - start < 1
    held_lanczos.let_go()
    assert held_lanczos.passes == 1


@pytest.mark.parametrize("superres", [False, True])
def test_late_upscaling_is_a_504_soon_after_the_deadline(
    serve: StartServer, held_lanczos: HeldLanczos, superres: bool
) -> None:
    server = serve(upscaler="lanczos", default_timeout=1.5)
    start = time.monotonic()
    response = server.draw(superres=True) if superres else _post(server)
    assert time.monotonic() - start < 3
    assert (response.status_code, response.json()["type"]) == (504, "deadline")
    assert _open_upscalings(server) == 0
    assert 'imagegen_failures_total{kind="deadline"} 1.0' in server.http.get("/metrics").text


def test_asyncio_does_not_report_a_failed_upscaling(
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


def test_upscalings_are_refused_while_the_server_stops(serve: StartServer) -> None:
    server = serve(upscaler="lanczos")
    server.app.state.context.mode_manager.stop_accepting()
    response = _post(server)
    assert (response.status_code, response.json()["type"]) == (503, "not_ready")


def test_the_form_takes_one_file(serve: StartServer) -> None:
    server = serve(upscaler="lanczos")
    files = [("file", ("a.png", _png())), ("file", ("b.png", _png()))]
    response = server.http.post("/superres", files=files)
    assert response.status_code == 400
    assert "Too many files" in response.json()["detail"]


def test_form_that_cannot_be_saved_is_a_storage_error(serve: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(upscaler="lanczos")
    monkeypatch.setattr("tempfile.tempdir", "/proc/nowhere")
    large = Image.effect_noise((1200, 1200), 100).convert("RGB")
    buffer = io.BytesIO()
    large.save(buffer, format="PNG")
    response = server.http.post("/superres", files={"file": ("a.png", buffer.getvalue())})
    assert (response.status_code, response.json()["type"]) == (503, "storage"), response.text
    assert "set TMPDIR to a folder that can be written to" in response.json()["detail"]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
