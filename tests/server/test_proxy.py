"""A server behind a proxy that strips its prefix or leaves it, and a server mounted in another application."""

from __future__ import annotations

import httpx2 as httpx
import pytest
from fastapi import FastAPI

from imagegen_core import Settings, SettingsError
from tests.engine.faults import Gate
from tests.server.conftest import LIMIT, Running, StartServer, listening

BODY = {"prompt": "a star", "size": "64x64", "seed": 7}
HERE = "127.0.0.1"


@pytest.fixture(params=["stripped", "left in place"])
def prefix(request: pytest.FixtureRequest) -> str:
    """The prefix that the proxy leaves in the path."""
    return "" if request.param == "stripped" else "/ai"


def _forwarded(**headers: str) -> dict[str, str]:
    return {f"X-Forwarded-{name}": value for name, value in headers.items()}


@pytest.mark.parametrize("source", ["setting", "header"])
def test_links_lead_through_the_proxy(serve: StartServer, prefix: str, source: str) -> None:
    setting = {"root_path": "/ai/"} if source == "setting" else {}
    server = serve(trusted_proxies=HERE, **setting)
    headers = _forwarded(Host="localhost:8443", Proto="https") | ({} if setting else _forwarded(Prefix="/ai"))
    posted = server.http.post(f"{prefix}/v1/jobs", json=BODY, headers=headers)
    job = posted.json()["id"]
    assert posted.headers["Location"] == f"/ai/v1/jobs/{job}"
    assert posted.json()["events"] == f"/ai/v1/jobs/{job}/events"
    events = server.http.get(f"{prefix}/v1/jobs/{job}/events", headers=headers)
    assert events.headers["X-Accel-Buffering"] == "no"
    assert f'"image": "/ai/v1/jobs/{job}/image"' in events.text
    body = {"prompt": "a star", "size": "64x64", "response_format": "url"}
    response = server.http.post(f"{prefix}/v1/images/generations", json=body, headers=headers)
    url = httpx.URL(response.json()["data"][0]["url"])
    assert (url.scheme, url.netloc) == ("https", b"localhost:8443")
    assert url.path.startswith("/ai/storage/")
    stored = server.http.get(url.path.removeprefix("/ai") if not prefix else url.path, headers=headers)
    assert stored.headers["Content-Type"] == "image/png"


def test_documentation_and_page_are_below_the_path(serve: StartServer, prefix: str) -> None:
    server = serve(root_path="/ai")
    assert server.http.get(f"{prefix}/openapi.json").json()["servers"] == [{"url": "/ai"}]
    docs = server.http.get(f"{prefix}/docs").text
    assert "'/ai/openapi.json'" in docs or '"/ai/openapi.json"' in docs
    assert 'src="/ai/static-offline-docs/swagger-ui-bundle.js"' in docs
    assert server.http.get(f"{prefix}/static-offline-docs/swagger-ui-bundle.js").status_code == 200
    assert server.http.get(f"{prefix}/page/app.js").status_code == 200
    assert "<title>imagegen</title>" in server.http.get(f"{prefix}/").text


def test_the_page_without_its_slash_is_redirected_below_the_path(serve: StartServer) -> None:
    server = serve(root_path="/ai", trusted_proxies=HERE)
    response = server.http.get("/ai", headers=_forwarded(Host="localhost", Proto="https"), follow_redirects=False)
    assert response.headers["Location"] == "https://localhost/ai/"


@pytest.mark.parametrize("prefix", ["/api", "/v1", "/sdapi", "/storage"])
@pytest.mark.parametrize("strips", [True, False])
def test_prefix_may_be_the_beginning_of_a_route(serve: StartServer, prefix: str, strips: bool) -> None:
    server = serve(root_path=prefix)
    path_prefix = "" if strips else prefix
    for route in ("/api/modes", "/v1/models", "/sdapi/v1/loras", "/health"):
        assert server.http.get(path_prefix + route).status_code == 200, route
    assert server.http.get(f"{path_prefix}/v1/jobs/nix").status_code == 404


def test_errors_have_their_apis_format_below_the_path(serve: StartServer, prefix: str) -> None:
    server = serve(root_path="/ai")
    assert "error" in server.http.post(f"{prefix}/v1/images/generations", json={"n": 0}).json()
    assert "errors" in server.http.post(f"{prefix}/sdapi/v1/txt2img", json={"steps": "x"}).json()
    assert server.http.get(f"{prefix}/nix").json()["type"] == "not_found"


def test_forwarded_headers_of_untrusted_clients_are_ignored(serve: StartServer) -> None:
    server = serve(trusted_proxies="10.0.0.0/8, fd00::/8")
    forged_headers = _forwarded(Host="evil.example", Proto="https", Prefix="/evil", For="1.2.3.4")
    posted = server.http.post("/v1/jobs", json=BODY, headers=forged_headers)
    assert posted.headers["Location"].startswith("/v1/jobs/")
    body = {"prompt": "a star", "size": "64x64", "response_format": "url"}
    response = server.http.post("/v1/images/generations", json=body, headers=forged_headers)
    assert response.json()["data"][0]["url"].startswith(f"{server.url}/storage/")


@pytest.mark.parametrize(
    "header",
    [
        _forwarded(Prefix="//evil.example"),
        _forwarded(Prefix="/a/../b"),
        _forwarded(Prefix='/a"><script>'),
        _forwarded(Prefix="https://evil.example"),
        _forwarded(Host="a b"),
        _forwarded(Host="a/b"),
        _forwarded(Host='a">'),
        _forwarded(Host="user@a"),
    ],
    ids=str,
)
def test_invalid_forwarded_prefixes_and_hosts_are_refused(serve: StartServer, header: dict[str, str]) -> None:
    response = serve(trusted_proxies=HERE).http.get("/health", headers=header)
    assert response.status_code == 400
    assert response.json()["detail"].startswith(f"Invalid {next(iter(header))} ")


def test_nearest_proxys_forwarded_value_is_used(serve: StartServer) -> None:
    server = serve(trusted_proxies=HERE)
    headers = _forwarded(Prefix="/evil, /ai", Host="evil.example, localhost")
    body = {"prompt": "a star", "size": "64x64", "response_format": "url"}
    response = server.http.post("/v1/images/generations", json=body, headers=headers)
    assert response.json()["data"][0]["url"].startswith("http://localhost/ai/storage/")


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("root_path", "ai", "Invalid root_path 'ai': expected a path of letters"),
        ("root_path", "//ai", "Invalid root_path '//ai': expected a path of letters"),
        ("root_path", "/a/../b", "expected a path of letters"),
        ("root_path", "/a?b", "expected a path of letters"),
        ("trusted_proxies", "proxy.example", "expected addresses or networks, such as 10.0.0.0/8"),
        ("trusted_proxies", "10.0.0.1/8", "10.0.0.1/8 has host bits set"),
        ("trusted_proxies", "*", "expected addresses or networks"),
    ],
)
def test_invalid_setting_is_refused_with_a_reason(setting: str, value: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence.replace("/", "[/]").replace("?", "[?]")):
        Settings.load(environ={}, **{setting: value})


@pytest.mark.parametrize("name", [None, "pictures"])
@pytest.mark.parametrize("root_path", ["", "/ai"])
def test_links_are_right_in_a_mounted_application(serve: StartServer, name: str | None, root_path: str) -> None:
    inner = serve(root_path=root_path).app
    outer = FastAPI()
    outer.mount("/draw", inner, name=name)
    with listening(outer) as url, httpx.Client(base_url=url, timeout=LIMIT) as http:
        posted = http.post("/draw/v1/jobs", json=BODY)
        assert posted.headers["Location"] == f"{root_path}/draw/v1/jobs/{posted.json()['id']}"
        assert http.get("/draw/openapi.json").json()["servers"] == [{"url": f"{root_path}/draw"}]


def test_prefix_that_uvicorn_also_has_is_applied_once(serve: StartServer) -> None:
    app = serve(root_path="/ai").app
    with listening(app, root_path="/ai") as url, httpx.Client(base_url=url, timeout=LIMIT) as http:
        assert http.post("/v1/jobs", json=BODY).headers["Location"].startswith("/ai/v1/jobs/")


def test_head_is_get_without_a_body(server: Running) -> None:
    for path in ("/", "/health", "/ready", "/docs", "/openapi.json", "/page/app.js", "/metrics", "/api/modes"):
        get, head = server.http.get(path), server.http.head(path)
        assert (head.status_code, head.content) == (get.status_code, b""), path
        assert head.headers["Content-Type"] == get.headers["Content-Type"]
        if path != "/metrics":
            assert head.headers["Content-Length"] == str(len(get.content)), path
    assert server.http.head("/generate").status_code == 405
    assert server.http.head("/nix").status_code == 404


def test_head_on_a_stream_ends_at_once(server: Running) -> None:
    gate = Gate(shut=True)
    server.worker.before["step"] = gate
    events = server.http.post("/v1/jobs", json=BODY).json()["events"]
    response = server.http.head(events)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["Content-Type"].startswith("text/event-stream")
    gate.open()
