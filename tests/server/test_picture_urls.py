"""Pictures given as URLs: only from allowed hosts, at checked addresses, within limits."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anyio
import pytest

from imagegen_core.errors import InvalidRequestError
from imagegen_core.server import picture_urls
from imagegen_core.server.picture_urls import fetch_picture
from tests.server.conftest import StartServer
from tests.server.test_openai_edits import encoded, picture

LIMIT = 10_000
PICTURE = encoded(picture())


class _Host(BaseHTTPRequestHandler):
    """A host with a picture, redirects, much data, and no answer."""

    seen: list[dict[str, str]]
    held: threading.Event

    def do_GET(self) -> None:
        self.seen.append(dict(self.headers))
        kind, _, rest = self.path.removeprefix("/").partition("/")
        if kind == "hold":
            self.held.wait()
        moved, missing = kind == "to", kind == "missing"
        self.send_response(302 if moved else 404 if missing else 200)
        if moved:
            self.send_header("Location", rest)
        self.end_headers()
        self.wfile.write(bytes(LIMIT + 1) if kind == "much" else PICTURE)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def host() -> Iterator[tuple[int, type[_Host]]]:
    """Run a host on loopback; return its port and what it saw."""
    handler: Any = type("Host", (_Host,), {"seen": [], "held": threading.Event()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1], handler
        finally:
            handler.held.set()
            server.shutdown()
            thread.join()


def fetch(url: str, *hosts: str, limit: int = LIMIT) -> bytes:
    return anyio.run(partial(fetch_picture, url, hosts, limit, "image"))


def names(monkeypatch: pytest.MonkeyPatch, **addresses: str) -> None:
    """Resolve names to addresses; the tests need no network."""

    async def resolved(host: str, port: int, **_: Any) -> Any:
        name = host.replace(".", "_")
        if name not in addresses:
            raise socket.gaierror("unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (addresses[name], port))]

    monkeypatch.setattr(anyio, "getaddrinfo", resolved)


def test_an_allowed_host_gives_a_picture(host: tuple[int, type[_Host]], monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, a_example_org="127.0.0.1")
    port, handler = host
    for allowed in ("a.example.org", "*.example.org", "*", "A.Example.org"):
        assert fetch(f"http://a.example.org:{port}/picture?x=1#y", allowed, "127.0.0.1") == PICTURE
    assert handler.seen[0]["Host"] == f"a.example.org:{port}"
    assert not {"Cookie", "Authorization"} & handler.seen[0].keys()


def test_a_redirect_on_the_same_host_is_followed(
    host: tuple[int, type[_Host]], monkeypatch: pytest.MonkeyPatch
) -> None:
    names(monkeypatch, a_example_org="127.0.0.1")
    assert fetch(f"http://a.example.org:{host[0]}/to//picture", "*", "127.0.0.1") == PICTURE


REFUSED: dict[str, tuple[str, tuple[str, ...], str]] = {
    "no host is allowed": ("http://a.example.org/", (), "this server fetches no pictures (IMAGEGEN_PICTURE_HOSTS"),
    "another host": ("http://b.example.org/", ("a.example.org",), "does not list this host"),
    "the parent domain": ("http://example.org/", ("*.example.org",), "does not list this host"),
    "a similar name": ("http://badexample.org/", ("*.example.org",), "does not list this host"),
    "a name at loopback": ("http://a.example.org/", ("a.example.org",), "its address is not a public one"),
    "any host and loopback": ("http://127.0.0.1/", ("*",), "its address is not a public one"),
    "a private network": ("http://10.0.0.1/", ("*",), "its address is not a public one"),
    "a cloud's metadata": ("http://169.254.169.254/", ("*",), "its address is not a public one"),
    "loopback in IPv6": ("http://[::1]/", ("*",), "its address is not a public one"),
    "loopback mapped to IPv6": ("http://[::ffff:127.0.0.1]/", ("*",), "its address is not a public one"),
    "a shared address": ("http://100.64.0.1/", ("*",), "its address is not a public one"),
    "a password": ("http://me:secret@a.example.org/", ("*",), "expected a URL such as"),
    "a port beyond the last": ("http://a.example.org:99999/", ("*",), "expected a URL such as"),
    "no URL": ("http://a:b/", ("*",), "it is not a URL"),
    "an unknown host": ("http://c.example.org/", ("*",), "the connection failed"),
    "a missing picture": ("http://a.example.org:{port}/missing", ("*", "127.0.0.1"), "it answers 404"),
    "much data": ("http://a.example.org:{port}/much", ("*", "127.0.0.1"), "it sends more than 10000 bytes"),
    "a redirect elsewhere": (
        "http://a.example.org:{port}/to/http://d.example.org/",
        ("*", "127.0.0.1"),
        "another host redirects there",
    ),
    "endless redirects": (
        "http://a.example.org:{port}/to//to//to//to//to/",
        ("*", "127.0.0.1"),
        "it redirects more than 3 times",
    ),
    "a redirect to a file": ("http://a.example.org:{port}/to/file:///etc/passwd", ("*", "127.0.0.1"), "redirects"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_addresses_are_refused(host: tuple[int, type[_Host]], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    literal = {"127_0_0_1": "127.0.0.1", "10_0_0_1": "10.0.0.1", "169_254_169_254": "169.254.169.254"}
    literal |= {"::1": "::1", "::ffff:127_0_0_1": "::ffff:127.0.0.1", "100_64_0_1": "100.64.0.1"}
    names(monkeypatch, a_example_org="127.0.0.1", d_example_org="127.0.0.1", **literal)
    url, hosts, sentence = REFUSED[name]
    with pytest.raises(InvalidRequestError) as caught:
        fetch(url.format(port=host[0]), *hosts)
    assert caught.value.field == "image"
    assert sentence in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_silent_host_is_given_up(host: tuple[int, type[_Host]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_urls, "_TOTAL", 0.3)
    with pytest.raises(InvalidRequestError, match="it took more than 0.3 seconds|the connection failed"):
        fetch(f"http://127.0.0.1:{host[0]}/hold", "127.0.0.1")


def test_a_request_draws_from_a_url(host: tuple[int, type[_Host]], serve: StartServer) -> None:
    server = serve(picture_hosts="127.0.0.1")
    url = f"http://127.0.0.1:{host[0]}/picture"
    draw: Callable[..., Any] = partial(server.http.post, "/generate")
    fields = {"prompt": "a star", "seed": 7}
    assert draw(json=fields | {"image": url}).content == draw(data=fields, files={"image": PICTURE}).content
    edit = {"prompt": "a star", "images": [{"image_url": url}]}
    assert server.http.post("/v1/images/edits", json=edit).status_code == 200
