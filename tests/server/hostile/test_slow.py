"""Clients with slow requests, slow reads or many connections."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2 as httpx
import pytest

from imagegen_core.server.connection_limits import ConnectionLimits
from tests.engine.faults import Gate
from tests.server.conftest import LIMIT, StartServer, listening
from tests.server.hostile.conftest import PROMPTLY, StartAttacked

SECONDS = 0.5
"""The read timeout of the servers here, in seconds."""

HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 200000\r\n\r\n"
CHUNKED = POST.replace(b"Content-Length: 200000", b"Transfer-Encoding: chunked")
RESPONSE_BYTES = 30_000_000
TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\n"


async def _application(scope: Any, receive: Any, send: Any) -> None:
    """Answer ``/early`` before its body, ``/large`` and ``/stream`` with large bodies, and other paths with an echo."""
    if scope["type"] != "http":
        return
    body, more = b"", scope["path"] not in ("/early", "/stream")
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/large":
        body = bytes(RESPONSE_BYTES)
    for _ in range(1000 * (scope["path"] == "/stream")):
        await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with listening(_application, ConnectionLimits(100, 100, SECONDS)) as url:
        yield url


def _connect(url: str, sent: bytes = b"", **options: Any) -> socket.socket:
    parsed = httpx.URL(url)
    connection = socket.create_connection((parsed.host, parsed.port or 80), LIMIT, **options)
    connection.sendall(sent)
    return connection


def _read(connection: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(1_000_000):
            data += piece
    return data


def test_clients_that_stop_sending_are_disconnected_in_time(address: str) -> None:
    beginnings = {
        b"": b"",
        b"\r\n": TIMED_OUT,
        b"G": TIMED_OUT,
        HEAD: TIMED_OUT,
        POST: TIMED_OUT,
        POST + b"{": TIMED_OUT,
        CHUNKED: TIMED_OUT,
        CHUNKED + b"1\r\n{\r\n": TIMED_OUT,
        CHUNKED + b"2\r\n{}\r\n0\r\nTrailer: ": TIMED_OUT,
        HEAD + b"\r\n" + HEAD: b"HTTP/1.1 200 OK\r\n",
    }
    began = time.monotonic()
    for sent, connection in [(sent, _connect(address, sent)) for sent in beginnings]:
        with connection:
            response = _read(connection)
            assert response.partition(b"\n")[0] == beginnings[sent].rstrip(b"\n"), sent
    assert time.monotonic() - began < 5 + 5 * SECONDS  # keep-alive takes 5 s


def test_the_timeout_response_gives_the_reason(address: str) -> None:
    with _connect(address, POST) as connection:
        head, _, body = _read(connection).partition(b"\r\n\r\n")
    assert b"Connection: close" in head
    assert json.loads(body)["detail"].startswith("The request did not arrive in time: send its headers within 0.5 s")


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\x00\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0" * 100], ids=["TLS", "HTTP/2", "0"]
)
def test_invalid_http_is_refused_with_a_reason(address: str, sent: bytes) -> None:
    with _connect(address, sent) as connection:
        head, _, body = _read(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert json.loads(body)["detail"].startswith("Invalid HTTP request received. Send HTTP/1.1")


def _trickle(address: str, sent: bytes, piece: bytes) -> float:
    """Send `piece` repeatedly until the server closes the connection, and return the seconds until then."""
    began = time.monotonic()
    with _connect(address, sent) as connection, contextlib.suppress(ConnectionResetError, BrokenPipeError):
        connection.settimeout(SECONDS / 5)
        while time.monotonic() - began < LIMIT:
            connection.sendall(piece)
            with contextlib.suppress(TimeoutError):
                if not connection.recv(65536):
                    break
    return time.monotonic() - began


def test_clients_that_trickle_bytes_are_disconnected(address: str) -> None:
    trickles = [
        (HEAD, b"X-A: b\r\n"),
        (HEAD + b"X: ", b"a"),
        (b"", b"\r\n"),
        (HEAD + b"\r\n", b"\r\n"),
        (POST, b"{"),
        (CHUNKED, b"1\r\n{\r\n"),
        (CHUNKED + b"1;", b"a"),
        (CHUNKED + b"0\r\n", b"A: b\r\n"),
        (POST.replace(b"/generate", b"/early"), b"{" * 1000),
    ]
    with ThreadPoolExecutor(len(trickles)) as pool:
        for seconds, trickle in zip(pool.map(lambda case: _trickle(address, *case), trickles), trickles, strict=True):
            assert seconds < 8 * SECONDS + 2, trickle


@pytest.mark.parametrize(
    ("sent", "piece"),
    [
        (HEAD, b"X-A: b\r\n" * 1000),
        (HEAD + b"X: ", b"a" * 8000),
        (b"GET /", b"a" * 8000),
        (CHUNKED, b"1\r\n{\r\n" * 1000),
        (CHUNKED + b"1;", b"a" * 8000),
        (CHUNKED + b"0\r\n", b"A: b\r\n" * 1000),
        (CHUNKED + b"0\r\nA: ", b"a" * 8000),
    ],
)
def test_headers_and_chunk_framing_have_a_size_limit(address: str, sent: bytes, piece: bytes) -> None:
    total = 0
    with _connect(address, sent) as connection, contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while total < 100_000_000:
            connection.sendall(piece)
            total += len(piece)
    assert total < 10_000_000  # most of this is in the kernel's buffers


def test_a_slow_but_steady_body_is_accepted(address: str) -> None:
    with _connect(address, POST.replace(b"200000", b"6000") + b"a" * 1000) as connection:
        for _ in range(5):
            time.sleep(SECONDS / 2)
            connection.sendall(b"a" * 1000)
        assert connection.recv(12) == b"HTTP/1.1 200"


def test_an_unread_response_is_given_up(address: str) -> None:
    for path in (b"/large", b"/stream"):
        with _connect(address, HEAD.replace(b"/health", path) + b"\r\n") as connection:
            time.sleep(3 * SECONDS)
            assert len(_read(connection)) < RESPONSE_BYTES, path


@pytest.mark.parametrize("header", [b"", b"Connection: close\r\n"])
def test_a_slowly_read_response_is_complete(address: str, header: bytes) -> None:
    with _connect(address, HEAD.replace(b"/health", b"/large") + header + b"\r\n") as connection:
        received = 0
        while received < RESPONSE_BYTES:
            received += len(connection.recv(1_000_000))
            time.sleep(SECONDS / 20)


@contextlib.contextmanager
def _open_connections(url: str, count: int, sent: bytes) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(_connect(url, sent)) for _ in range(count)]


@pytest.mark.parametrize("sent", [b"", HEAD, POST, HEAD + b"\r\n"], ids=["silent", "half a header", "no body", "idle"])
def test_connections_without_a_request_make_room(sent: bytes) -> None:
    with listening(_application, ConnectionLimits(8, 8, 20)) as url, _open_connections(url, 50, sent):
        assert httpx.post(f"{url}/generate", content=b"a", timeout=LIMIT).content == b"a"


def test_an_address_has_a_limited_share_of_connections() -> None:
    limits = ConnectionLimits(8, 2, 20, many=())
    with (
        listening(_application, limits) as url,
        _open_connections(url, 2, HEAD.replace(b"/health", b"/stream") + b"\r\n") as connections,
    ):
        for connection in connections:
            assert connection.recv(12) == b"HTTP/1.1 200"
        with _connect(url, HEAD.replace(b"/health", b"/") + b"\r\n") as third:
            assert third.recv(65536).startswith(b"HTTP/1.1 503 ")
        with _connect(url, HEAD + b"\r\n", source_address=("127.0.0.2", 0)) as other:
            assert other.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_connections_over_the_limit_are_refused_except_probes(serve: StartServer) -> None:
    server, gate = serve(max_connections=4), Gate(shut=True)
    server.worker.before["step"] = gate
    job = server.http.post("/v1/jobs", json={"prompt": "a", "size": "64x64"}).json()["id"]
    events = f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with _open_connections(server.url, 4, events) as connections:
        for connection in connections:
            assert connection.recv(12) == b"HTTP/1.1 200"
        refused = httpx.get(f"{server.url}/v1/models", timeout=LIMIT)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        assert refused.json()["error"]["message"].startswith("This server has 4 connections, as many as it takes")
        for probe in ("/health", "/ready"):
            assert httpx.get(server.url + probe, timeout=LIMIT).status_code == 200
    gate.open()
    server.until(lambda: httpx.get(f"{server.url}/v1/models", timeout=LIMIT).is_success)


def test_a_thousand_slow_connections_do_not_delay_others(attack: StartAttacked) -> None:
    server = attack(IMAGEGEN_READ_TIMEOUT="5")
    attacks = (HEAD, POST, CHUNKED, b"")
    with contextlib.ExitStack() as stack, server.watch() as watch:
        for number in range(1000):
            stack.enter_context(_connect(server.url, attacks[number % len(attacks)]))
        assert server.draw().status_code == 200
    assert watch.worst < PROMPTLY
