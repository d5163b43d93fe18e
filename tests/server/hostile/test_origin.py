"""Requests from foreign web pages in the user's browser: foreign origins and DNS rebinding."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from fastapi.testclient import TestClient
from starlette.types import Scope
from starlette.websockets import WebSocketDisconnect

from imagegen_core import LocalEngine, Settings, SettingsError
from imagegen_core.hosting.mode_manager import ModeManager
from imagegen_core.plugins.hookspecs import hookimpl
from imagegen_core.plugins.plugin import Plugin
from imagegen_core.plugins.registry import Registry
from imagegen_core.server.app import app_of
from imagegen_core.server.context import ServerContext
from imagegen_core.server.middleware.hosts import HostCheck
from tests.server.conftest import LIMIT, listening
from tests.server.test_fuzz import Quick

CHANGING = ("POST", "PUT", "PATCH", "DELETE")
BODY = {"prompt": "a star", "size": "64x64"}
ROUTES = (
    "/generate",
    "/v1/images/generations",
    "/sdapi/v1/options",
    "/api/modes/switch",
    "/storage/a.png",
    "/mine",
    "/nowhere",
)


class _Routes:
    @hookimpl
    def imagegen_routes(self, app: APIRouter) -> None:
        @app.websocket("/mine/socket")
        async def talk(socket: WebSocket) -> None:
            await socket.accept()
            await socket.close()


def _app(engine: LocalEngine, **settings: Any) -> FastAPI:
    registry = Registry([(Plugin("mine", "imagegen-mine", "1.0"), _Routes())])  # type: ignore[list-item]
    configured = Settings.load(environ={}, max_pixels=256 * 256, **settings)
    return app_of(ServerContext(configured, registry, ModeManager.drawing_with(engine, configured, registry)))


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    with LocalEngine(Quick()) as engine:
        yield engine


Start = Callable[..., httpx.Client]


@pytest.fixture
def start(engine: LocalEngine) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def start(**settings: Any) -> httpx.Client:
            url = stack.enter_context(listening(_app(engine, **settings)))
            return stack.enter_context(httpx.Client(base_url=url, timeout=LIMIT))

        yield start


@pytest.fixture(scope="module")
def http(engine: LocalEngine) -> Iterator[httpx.Client]:
    with listening(_app(engine)) as url, httpx.Client(base_url=url, timeout=LIMIT) as http:
        yield http


def _message(response: httpx.Response) -> str:
    body = response.json()
    return str(body["error"]["message"] if isinstance(body.get("error"), dict) else body["detail"])


FOREIGN = (
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "http://127.0.0.1"},  # another port
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "file://"},
    {"Origin": "chrome-extension://abcdefgh"},
    {"Origin": ""},
    {"Origin": "*"},
    {"Origin": "http://[::1"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
)


@pytest.mark.parametrize("headers", FOREIGN)
def test_other_origins_cannot_change_anything(http: httpx.Client, headers: dict[str, str]) -> None:
    for path in ROUTES:
        for method in CHANGING:
            response = http.request(method, path, json=BODY, headers=headers)
            assert response.status_code == 403, (method, path)
            assert "IMAGEGEN_CORS_ORIGINS" in _message(response)
            assert "access-control-allow-origin" not in response.headers


def test_a_foreign_origin_is_refused_before_the_body(http: httpx.Client) -> None:
    with socket.create_connection((http.base_url.host, int(http.base_url.port or 0)), timeout=LIMIT) as connection:
        connection.sendall(
            b"POST /superres HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 30000000\r\n\r\n"
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 403 ")


def test_other_origins_cannot_read_responses(http: httpx.Client) -> None:
    for path in ("/health", "/v1/models", "/sdapi/v1/progress"):
        response = http.get(path, headers={"Origin": "https://evil.example"})
        assert not [name for name in response.headers if name.startswith("access-control-")], path


@pytest.mark.parametrize("private", [{}, {"Access-Control-Request-Private-Network": "true"}])
def test_a_preflight_from_another_origin_is_refused(http: httpx.Client, private: dict[str, str]) -> None:
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST", **private}
    response = http.options("/generate", headers=headers)
    assert response.status_code == 403
    assert not [name for name in response.headers if name.startswith("access-control-")]


def test_other_origins_cannot_show_the_page_in_a_frame(http: httpx.Client, start: Start) -> None:
    for path in ("/", "/docs", "/page/app.js", "/nowhere"):
        assert http.get(path).headers["content-security-policy"] == "frame-ancestors 'self'"
    named = start(cors_origins="http://localhost:5173, null")
    assert named.get("/").headers["content-security-policy"] == "frame-ancestors 'self' http://localhost:5173"
    assert start(cors_origins="*").get("/").headers["content-security-policy"] == "frame-ancestors 'self' *"


def test_the_servers_own_page_and_programs_can_draw(http: httpx.Client) -> None:
    own = str(http.base_url).rstrip("/")
    host = {"Host": f"LOCALHOST:{http.base_url.port}"}
    for headers in (
        {},
        {"Origin": own},
        {"Origin": own, "Sec-Fetch-Site": "same-origin"},
        {"Origin": f"http://localhost:{http.base_url.port}"} | host,
        {"Origin": "http://localhost", "Host": "localhost:80"},
        {"Origin": "http://localhost:80", "Host": "localhost"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ):
        assert http.post("/generate", json=BODY, headers=headers).status_code == 200, headers


def test_an_origin_with_another_scheme_is_refused(http: httpx.Client) -> None:
    response = http.post("/generate", json=BODY, headers={"Origin": "https://localhost", "Host": "localhost"})
    assert response.status_code == 403


@pytest.mark.parametrize(
    "configured", ["http://localhost:5173", "http://LOCALHOST:5173/", "https://a.example, http://localhost:5173"]
)
def test_a_front_end_of_an_allowed_origin_works(start: Start, configured: str) -> None:
    http, origin = start(cors_origins=configured), {"Origin": "http://localhost:5173"}
    requested = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,x-api-key",
        "Access-Control-Request-Private-Network": "true",
    }
    preflight = http.options("/generate", headers=origin | requested)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "http://localhost:5173"
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert "x-api-key" in preflight.headers["access-control-allow-headers"].lower()
    assert preflight.headers["access-control-allow-private-network"] == "true"
    response = http.post("/generate", json=BODY, headers=origin)
    assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, "http://localhost:5173")
    assert "X-Seed" in response.headers["access-control-expose-headers"]
    wrong = http.post("/generate", json={}, headers=origin)
    assert (wrong.status_code, wrong.headers["access-control-allow-origin"]) == (422, "http://localhost:5173")
    for other in ("http://localhost:5174", "https://localhost:5173", "null"):
        assert http.post("/generate", json=BODY, headers={"Origin": other}).status_code == 403


def test_an_allowed_origin_can_read_the_refusal_of_its_key(start: Start) -> None:
    http = start(cors_origins="http://localhost:5173", api_keys="right")
    origin = {"Origin": "http://localhost:5173"}
    preflight = http.options("/generate", headers=origin | {"Access-Control-Request-Method": "POST"})
    assert preflight.status_code == 200  # a preflight contains no key
    refused = http.post("/generate", json=BODY, headers=origin)
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "http://localhost:5173")


def test_a_star_allows_every_origin(start: Start) -> None:
    http = start(cors_origins="*")
    for headers in FOREIGN:
        assert http.post("/generate", json=BODY, headers=headers).status_code == 200, headers
    response = http.get("/health", headers={"Origin": "https://evil.example"})
    assert response.headers["access-control-allow-origin"] == "*"


def test_a_websocket_from_another_origin_is_refused(engine: LocalEngine) -> None:
    client = TestClient(_app(engine))
    with client.websocket_connect("/mine/socket", headers={"Origin": "http://testserver"}):
        pass
    for headers in (
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "evil.example"},
    ):
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/mine/socket", headers=headers):
            pass


PATHS = (
    "/health",
    "/ready",
    "/",
    "/docs",
    "/page/app.js",
    "/v1/models",
    "/sdapi/v1/options",
    "/storage/a.png",
    "/nowhere",
)
FOREIGN_HOSTS = (
    "evil.example",
    "evil.example:80",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evillocalhost",
    "192.168.1.4",
    "8.8.8.8:4200",
    "0.0.0.0",
    "[2001:db8::1]",
    "[::ffff:8.8.8.8]",
    "2130706433",
    "0x7f.1",
)


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_a_server_on_loopback_refuses_other_host_names(http: httpx.Client, host: str) -> None:
    for path in PATHS:
        response = http.get(path, headers={"Host": host})
        assert response.status_code == 421, path
        assert "IMAGEGEN_ALLOWED_HOSTS" in _message(response)
    assert http.post("/generate", json=BODY, headers={"Host": host, "Origin": f"http://{host}"}).status_code == 421


@pytest.mark.parametrize(
    "host",
    [
        "",
        "a b",
        "evil.example/localhost",
        "user@localhost",
        "localhost:x",
        "[::1",
        "localhost,evil.example",
        "%6cocalhost",
    ],
)
def test_an_invalid_host_is_refused(http: httpx.Client, host: str) -> None:
    assert http.get("/health", headers={"Host": host}).status_code == 400


def test_two_hosts_and_a_missing_host_are_refused(http: httpx.Client) -> None:
    for lines, status in (
        (b"Host: localhost\r\nHost: evil.example\r\n", b"400"),  # RFC 9112, section 3.2
        (b"", b"400"),
    ):
        assert _status(http, b"GET /health HTTP/1.1\r\nConnection: close\r\n" + lines + b"\r\n") == status
    assert _status(http, b"GET /health HTTP/1.0\r\n\r\n") == b"200"


def _status(http: httpx.Client, request: bytes) -> bytes:
    with socket.create_connection((http.base_url.host, int(http.base_url.port or 0)), timeout=LIMIT) as connection:
        connection.sendall(request)
        return connection.recv(65536).split(b" ")[1]


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:8080",
        "localhost.",
        "mine.localhost",
        "127.0.0.1",
        "127.8.9.10:1",
        "[::1]",
        "[::1]:4200",
        "[::ffff:127.0.0.1]",
    ],
)
def test_loopback_names_are_accepted_with_any_port(http: httpx.Client, host: str) -> None:
    assert http.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("allowed", "accepted", "refused"),
    [
        (
            "pictures.example.org",
            ["pictures.example.org", "PICTURES.example.org.:8443"],
            ["example.org", "a.pictures.example.org"],
        ),
        ("*.example.org", ["a.example.org", "a.b.example.org:1"], ["example.org", "evilexample.org", "8.8.8.8"]),
        ("192.168.1.4, [2001:DB8::1]", ["192.168.1.4:80", "[2001:db8:0::1]"], ["192.168.1.5", "[2001:db8::2]"]),
        ("*", ["evil.example", "8.8.8.8"], []),
    ],
)
def test_the_setting_allows_host_names(start: Start, allowed: str, accepted: list[str], refused: list[str]) -> None:
    http = start(allowed_hosts=allowed)
    for host in accepted:
        assert http.get("/health", headers={"Host": host}).status_code == 200, host
        own = {"Host": host, "Origin": f"http://{host.lower()}"}
        assert http.post("/generate", json=BODY, headers=own).status_code in (200, 403), host
    for host in refused:
        assert http.get("/health", headers={"Host": host}).status_code == 421, host


@pytest.mark.parametrize("bound", ["0.0.0.0", "::", "192.168.1.4"])
def test_a_server_on_the_network_accepts_addresses_but_no_foreign_names(bound: str) -> None:
    check = HostCheck(_unused, bound, ())
    for host in ("10.1.2.3", "[2001:db8::1]", "127.0.0.1", "localhost", bound):
        assert check.allows(host), host  # a probe uses a pod's address, unknown to any setting
    for host in ("evil.example", "imagegen.default.svc", "10.1.2.3.evil.example"):
        assert not check.allows(host), host


def test_the_bound_name_is_allowed() -> None:
    check = HostCheck(_unused, "pictures.lan", ())
    assert check.allows("Pictures.LAN.")
    assert not check.allows("other.lan")


def test_the_connections_address_counts_with_another_web_server() -> None:
    check = HostCheck(_unused, "127.0.0.1", ())  # as with `uvicorn --host 0.0.0.0`
    assert check.allows("172.17.0.2", reached="172.17.0.2")
    assert check.allows("192.168.1.4", reached="172.17.0.2")  # a published port
    assert check.allows("192.168.1.4", reached="::ffff:172.17.0.2")
    assert not check.allows("evil.example", reached="172.17.0.2")
    assert not check.allows("192.168.1.4", reached="127.0.0.1")
    assert not check.allows("192.168.1.4", reached="::ffff:127.0.0.1")


@pytest.mark.parametrize(
    ("host", "forwarded", "status"),
    [
        ("127.0.0.1:4200", "pictures.example.org", 200),
        ("pictures.example.org", "pictures.example.org", 200),
        ("127.0.0.1:4200", "evil.example", 421),
        ("evil.example", "pictures.example.org", 421),
        ("evil.example", "localhost", 421),
    ],
)
def test_both_hosts_are_checked_behind_a_proxy(start: Start, host: str, forwarded: str, status: int) -> None:
    http = start(trusted_proxies="127.0.0.1", allowed_hosts="pictures.example.org")
    headers = {
        "Host": host,
        "X-Forwarded-Host": forwarded,
        "X-Forwarded-Proto": "https",
        "Origin": f"https://{forwarded}",
    }
    assert http.post("/generate", json=BODY, headers=headers).status_code == status
    assert http.post("/generate", json=BODY, headers=headers | {"Origin": f"http://{forwarded}"}).status_code in (
        403,
        421,
    )


def test_headers_of_an_untrusted_proxy_are_ignored(start: Start) -> None:
    headers = {"Host": "evil.example", "X-Forwarded-Host": "localhost", "X-Forwarded-Proto": "https"}
    assert start().get("/health", headers=headers).status_code == 421
    headers = {"X-Forwarded-Host": "evil.example", "Origin": "http://evil.example"}
    assert start().post("/generate", json=BODY, headers=headers).status_code == 403


async def _unused(scope: Scope, receive: object, send: object) -> None:
    raise AssertionError


def test_the_application_works_in_a_test_client(engine: LocalEngine) -> None:
    app = _app(engine)
    outer = FastAPI()
    outer.mount("/pictures", app)
    assert TestClient(app).post("/generate", json=BODY).status_code == 200
    assert TestClient(outer).post("/pictures/generate", json=BODY).status_code == 200
    response = TestClient(outer).post("/pictures/v1/images/generations", json=BODY, headers={"Origin": "null"})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("cors_origins", "localhost:5173"),
        ("cors_origins", "http://localhost:5173/app"),
        ("cors_origins", "http://*.example.org"),
        ("allowed_hosts", "https://example.org"),
        ("allowed_hosts", "example.org:80"),
        ("allowed_hosts", "ex*mple.org"),
    ],
)
def test_invalid_origins_and_hosts_are_refused(setting: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^Invalid IMAGEGEN_{setting.upper()} .* expected a (scheme|name)"):
        Settings.load(environ={f"IMAGEGEN_{setting.upper()}": value})
