"""Upscalings of disconnected clients, and a shutdown during upscalings."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import signal
import socket
import time
from collections.abc import Iterator
from datetime import datetime

import httpx2 as httpx
from PIL import Image

from tests.server.conftest import LIMIT
from tests.server.hostile.conftest import PROMPTLY, Attacked, StartAttacked


@functools.cache
def _form() -> tuple[bytes, str]:
    """Return a form and its content type; its picture takes seconds to enlarge on one core."""
    buffer = io.BytesIO()
    Image.effect_noise((600, 600), 80).convert("RGB").save(buffer, "PNG")
    request = httpx.Request("POST", "http://x", files={"file": ("a.png", buffer.getvalue())}, data={"magnitude": "3"})
    return request.read(), request.headers["content-type"]


def _send_request(server: Attacked) -> socket.socket:
    """Send a complete request to enlarge a picture."""
    body, kind = _form()
    address = server.url.removeprefix("http://")
    host, _, port = address.partition(":")
    connection = socket.create_connection((host, int(port)))
    head = f"POST /superres HTTP/1.1\r\nHost: {address}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def _until_received(server: Attacked, least: int) -> None:
    """Wait until the server has at least `least` pictures to enlarge."""
    deadline = time.monotonic() + LIMIT
    match = None
    while not match or float(match[1]) < least:
        assert time.monotonic() < deadline
        match = re.search(r"^imagegen_upscalings (.*)$", server.http.get("/metrics").text, re.MULTILINE)


@contextlib.contextmanager
def _sending(server: Attacked, count: int) -> Iterator[list[socket.socket]]:
    """Send `count` requests, and wait until the server has most of them."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(contextlib.closing(_send_request(server))) for _ in range(count)]
        _until_received(server, count * 3 // 4)
        yield connections


def test_64_upscalings_of_disconnected_clients_do_not_delay_others(attacked: Attacked) -> None:
    with attacked.watch() as health, _sending(attacked, 64) as connections:
        for connection in connections:
            connection.close()
        for route in ("/storage/nothing", "/metrics", "/ready"):
            began = time.monotonic()
            httpx.get(f"{attacked.url}{route}", timeout=LIMIT)
            assert time.monotonic() - began < PROMPTLY, route
        began = time.monotonic()
        assert attacked.draw(superres=True).status_code == 200
        assert time.monotonic() - began < 10
    assert health.worst < PROMPTLY


def test_the_server_stops_within_the_shutdown_limit(attack: StartAttacked) -> None:
    server = attack(IMAGEGEN_SHUTDOWN_LIMIT="2")
    process = server.process.process
    with _sending(server, 32):
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0
    records = {str(record["message"]).partition(" [")[0]: record for record in server.process.records()}
    stopping, finished = (
        datetime.fromisoformat(str(records[message]["time"]).replace(",", "."))
        for message in ("Stopping: finishing the open requests", "Finished server process")
    )
    assert (finished - stopping).total_seconds() < 2 + 1.5
    assert "Traceback" not in server.process.log.read_text()
    assert "never retrieved" not in server.process.log.read_text()
