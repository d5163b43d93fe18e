"""Upscalings that nobody waits for any more, and a server that is told to stop amid them."""

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
import pytest
from PIL import Image

from tests.server.conftest import LIMIT
from tests.server.hostile.conftest import PROMPTLY, Attacked, StartAttacked


@functools.cache
def _form() -> tuple[bytes, str]:
    """A picture that takes seconds to enlarge on one core."""
    buffer = io.BytesIO()
    Image.effect_noise((600, 600), 80).convert("RGB").save(buffer, "PNG")
    request = httpx.Request("POST", "http://x", files={"file": ("a.png", buffer.getvalue())}, data={"magnitude": "3"})
    return request.read(), request.headers["content-type"]


def _ask(server: Attacked) -> socket.socket:
    """A request for an enlarged picture, sent whole."""
    body, kind = _form()
    address = server.url.removeprefix("http://")
    host, _, port = address.partition(":")
    connection = socket.create_connection((host, int(port)))
    head = f"POST /superres HTTP/1.1\r\nHost: {address}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def _until_asked(server: Attacked, least: int) -> None:
    """Wait until so many pictures are to be enlarged."""
    ends = time.monotonic() + LIMIT
    found = None
    while not found or float(found[1]) < least:
        assert time.monotonic() < ends
        found = re.search(r"^imagegen_upscalings (.*)$", server.http.get("/metrics").text, re.MULTILINE)


@contextlib.contextmanager
def _asking(server: Attacked, count: int) -> Iterator[list[socket.socket]]:
    """So many requests, most of which are to be enlarged still."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(contextlib.closing(_ask(server))) for _ in range(count)]
        _until_asked(server, count * 3 // 4)
        yield connections


def test_64_upscalings_whose_clients_hang_up_hold_nobody_up(attacked: Attacked) -> None:
    with attacked.watch() as health, _asking(attacked, 64) as connections:
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


@pytest.mark.parametrize("hang_up", [False, True])
def test_a_server_told_to_stop_ends_within_its_limit(attack: StartAttacked, hang_up: bool) -> None:
    server = attack(IMAGEGEN_SHUTDOWN_LIMIT="2")
    process = server.process.process
    with _asking(server, 32) as connections:
        if hang_up:
            for connection in connections:
                connection.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0
    said = {str(record["message"]).partition(" [")[0]: record for record in server.process.records()}
    told, finished = (
        datetime.fromisoformat(str(said[message]["time"]).replace(",", "."))
        for message in ("Told to stop: finishing what was asked for", "Finished server process")
    )
    assert (finished - told).total_seconds() < 2 + 1.5
    assert "Traceback" not in server.process.log.read_text()
    assert "never retrieved" not in server.process.log.read_text()
