"""Requests without an API key, or with a key without the permission."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator

import httpx2 as httpx
import pytest
from fastapi import APIRouter, Depends, WebSocket
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from imagegen_core import LocalEngine, Settings
from imagegen_core.errors import StorageError
from imagegen_core.hosting.mode_manager import ModeManager
from imagegen_core.plugins.hookspecs import hookimpl
from imagegen_core.plugins.plugin import Plugin
from imagegen_core.plugins.registry import Registry
from imagegen_core.server import require_admin
from imagegen_core.server.app import app_of
from imagegen_core.server.context import ServerContext
from tests.server.conftest import LIMIT, listening
from tests.server.hostile.conftest import PROMPTLY, StartAttacked
from tests.server.test_fuzz import Quick

KEY = {"X-API-Key": "plain"}
BIG = 31 * 2**20


class _Routes:
    """A plugin with protected routes of every kind."""

    @hookimpl
    def imagegen_routes(self, app: APIRouter) -> None:
        inner = APIRouter()

        @app.get("/mine")
        @inner.get("/mine/inner")
        async def mine() -> str:
            return "here"

        @inner.post("/mine/admin", dependencies=[Depends(require_admin)])
        async def change() -> str:
            return "changed"

        @app.websocket("/mine/socket")
        async def talk(socket: WebSocket) -> None:
            await socket.accept()
            await socket.send_text("here")
            await socket.close()

        app.include_router(inner)


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[httpx.Client, ServerContext]]:
    registry = Registry([(Plugin("mine", "imagegen-mine", "1.0"), _Routes())])  # type: ignore[list-item]
    settings = Settings.load(environ={}, api_keys="plain", admin_keys="chief", max_pixels=256 * 256)
    with LocalEngine(Quick()) as engine:
        context = ServerContext(settings, registry, ModeManager.drawing_with(engine, settings, registry))
        with listening(app_of(context)) as url, httpx.Client(base_url=url, timeout=LIMIT) as http:
            yield http, context


@pytest.fixture
def http(guarded: tuple[httpx.Client, ServerContext]) -> httpx.Client:
    return guarded[0]


def _connect(http: httpx.Client) -> socket.socket:
    connection = socket.create_connection((http.base_url.host, int(http.base_url.port or 0)))
    connection.settimeout(LIMIT)
    return connection


def _head(method: str, path: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


def _read_all(connection: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(
    "path", ["/generate", "/superres", "/v1/images/generations", "/sdapi/v1/txt2img", "/nowhere", "/"]
)
@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x", "image/png", ""])
def test_a_request_without_a_key_is_refused_before_its_body(http: httpx.Client, path: str, kind: str) -> None:
    with _connect(http) as connection:
        began = time.monotonic()
        connection.sendall(_head("POST", path, f"Content-Length: {BIG}", *([f"Content-Type: {kind}"] if kind else [])))
        response = connection.recv(65536)
        assert time.monotonic() - began < PROMPTLY
        assert response.startswith(b"HTTP/1.1 401 ")
        assert b"\r\nconnection: close\r\n" in response.lower()
        assert b"\r\nwww-authenticate: bearer\r\n" in response.lower()


def test_the_connection_closes_without_any_of_the_body(http: httpx.Client) -> None:
    with _connect(http) as connection:
        connection.sendall(_head("POST", "/generate", f"Content-Length: {BIG}"))
        assert b"401 Unauthorized" in _read_all(connection)


def test_expect_100_continue_gets_401_without_100(http: httpx.Client) -> None:
    with _connect(http) as connection:
        connection.sendall(_head("POST", "/generate", "Content-Length: 9", "Expect: 100-continue"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")  # not 100: RFC 9110, section 10.1.1


def test_an_endless_body_is_not_read_forever(http: httpx.Client) -> None:
    with _connect(http) as connection:
        connection.sendall(_head("POST", "/generate", "Transfer-Encoding: chunked"))
        with contextlib.suppress(OSError):  # the server closes the connection
            for _ in range(LIMIT * 100):
                connection.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
                time.sleep(0.01)
            raise AssertionError("the server did not stop reading")


def test_a_client_can_send_the_whole_body_before_it_reads(http: httpx.Client) -> None:
    with _connect(http) as connection:
        connection.sendall(_head("POST", "/superres", f"Content-Length: {BIG}"))
        connection.sendall(b" " * BIG)  # curl and Python's http.client read nothing before they have sent all
        assert b'"type":"unauthorized"' in _read_all(connection)


def test_31_mb_of_json_without_a_key_does_not_delay_other_clients(attack: StartAttacked) -> None:
    server = attack(IMAGEGEN_API_KEYS="plain")
    body = b"[" + b"[]," * (BIG // 3 - 1) + b"1]"
    before = server.memory
    with server.watch() as health:
        for _ in range(3):
            response = httpx.post(
                f"{server.url}/sdapi/v1/png-info", content=body, headers={"Content-Type": "application/json"}
            )
            assert response.status_code == 401
    assert health.worst < PROMPTLY
    assert health.peak < before + 50 * 2**20


def test_all_routes_except_the_open_ones_need_a_key(guarded: tuple[httpx.Client, ServerContext]) -> None:
    http, _ = guarded
    open_to_all = {"/", "/health", "/ready"}
    paths = http.get("/openapi.json").json()["paths"]
    assert {"/mine", "/mine/inner", "/mine/admin"} <= paths.keys()
    for path in {*paths, "/nowhere", "/metrics", "/page", "/storage/a-picture.png"} - open_to_all:
        concrete = re.sub(r"\{\w+\}", "x", path)
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            assert http.request(method, concrete).status_code == 401, (method, path)


ADMINISTRATION = {
    "/api/modes/switch",
    "/api/modes/reload",
    "/api/models/load",
    "/api/models/unload",
    "/sdapi/v1/refresh-checkpoints",
    "/sdapi/v1/reload-checkpoint",
    "/sdapi/v1/unload-checkpoint",
    "/mine/admin",
}


def test_routes_that_change_the_server_need_an_admin_key(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    changing = [(path, method) for path, methods in paths.items() for method in methods if method != "get"]
    statuses = {
        path: http.request(method, re.sub(r"\{\w+\}", "x", path), json={"mode": "x"}, headers=KEY).status_code
        for path, method in changing
    }
    assert {path for path, status in statuses.items() if status == 403} == ADMINISTRATION


def test_open_routes_are_read_only(http: httpx.Client) -> None:
    for path in ("/", "/health", "/ready", "/docs", "/redoc", "/openapi.json", "/page/app.js"):
        assert http.get(path).status_code == 200, path
        assert http.head(path).status_code == 200, path
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert http.request(method, path).status_code == 401, (method, path)


@pytest.mark.parametrize(
    "path",
    [
        "//metrics",
        "/page/../metrics",
        "/page/%2e%2e/metrics",
        "/health/../metrics",
        "/METRICS",
        "/metrics/",
        "/health/x",
        "/%6detrics",
    ],
)
def test_other_spellings_of_a_path_open_no_route(http: httpx.Client, path: str) -> None:
    with _connect(http) as connection:
        connection.sendall(_head("GET", path, "Connection: close"))
        response = _read_all(connection)
    assert response.split(b" ")[1] in (b"401", b"404"), response
    assert b"imagegen_" not in response


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer plain,chief"},
        {"Authorization": "bearer\tplain"},
        {"X-API-Key": ""},
        {"X-API-Key": "plain\u00e9"},
        {"X-API-Key": "PLAIN"},
        {"Cookie": "key=plain"},
        {"Authorization": "Basic OnBsYWlu\x80"},
    ],
)
def test_other_spellings_of_a_key_are_refused(http: httpx.Client, headers: dict[str, str]) -> None:
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    assert http.get("/metrics", headers=encoded).status_code == 401  # type: ignore[arg-type]


def test_all_kinds_of_plugin_routes_need_a_key(http: httpx.Client) -> None:
    assert http.get("/mine/inner", headers=KEY).json() == "here"
    assert http.post("/mine/admin", headers=KEY).status_code == 403
    assert http.post("/mine/admin", headers={"X-API-Key": "chief"}).json() == "changed"


def test_a_plugins_websocket_needs_a_key(guarded: tuple[httpx.Client, ServerContext]) -> None:
    client = TestClient(app_of(guarded[1]))
    with client.websocket_connect("/mine/socket", headers=KEY) as websocket:
        assert websocket.receive_text() == "here"
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/mine/socket"):
        pass


SECRET = "redis://annika:hunter2@10.0.0.7:6379/0?token=geheim"


@pytest.fixture
def broken_store(guarded: tuple[httpx.Client, ServerContext], monkeypatch: pytest.MonkeyPatch) -> None:
    def get(key: str) -> bytes | None:
        raise StorageError(
            f"The storage {SECRET} in /srv/pictures does not work (refused): see whether it can be reached"
        )

    monkeypatch.setattr(guarded[1].store, "get", get)


@pytest.mark.usefixtures("broken_store")
def test_responses_without_a_key_reveal_nothing_about_the_server(
    guarded: tuple[httpx.Client, ServerContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    http, context = guarded
    monkeypatch.setattr(context.mode_manager, "state", "failed")
    monkeypatch.setattr(context.mode_manager, "failure", f"Cannot load /srv/models/secret.safetensors from {SECRET}")
    stored = "/storage/0b9a4c8e-2f6d-4c39-9f0a-0d7c1e2b3a4f"
    assert http.get("/ready").json() == {"status": "failed"}
    assert http.get("/health").json() == {"status": "ok", "model": "failed"}
    assert http.get(stored).json()["type"] == "storage"
    for path in ("/ready", "/health", stored, "/metrics"):
        for secret in ("srv", "10.0.0.7", "annika", "hunter2", "geheim"):
            assert secret not in http.get(path).text, path
    assert "/srv/models/secret.safetensors" in http.get("/ready", headers=KEY).json()["detail"]
    assert "/srv/pictures" in http.get(stored, headers=KEY).json()["detail"]
    for path in ("/ready", stored):
        for secret in ("annika", "hunter2", "geheim"):
            assert secret not in http.get(path, headers=KEY).text, path


def test_refusals_have_the_shape_of_their_api(http: httpx.Client) -> None:
    assert http.get("/v1/models").json()["error"]["type"] == "authentication_error"
    assert http.get("/sdapi/v1/options").json()["error"] == "unauthorized"
    assert json.loads(http.get("/metrics").content)["type"] == "unauthorized"
