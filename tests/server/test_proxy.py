"""A server behind a proxy, which may strip its prefix or leave it, and below paths of other applications."""

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


@pytest.mark.parametrize("said_by", ["setting", "header"])
def test_links_are_those_that_the_client_can_follow(serve: StartServer, prefix: str, said_by: str) -> None:
    setting = {"root_path": "/ai/"} if said_by == "setting" else {}
    server = serve(trusted_proxies=HERE, **setting)
    headers = _forwarded(Host="localhost:8443", Proto="https") | ({} if setting else _forwarded(Prefix="/ai"))
    posted = server.http.post(f"{prefix}/v1/jobs", json=BODY, headers=headers)
    job = posted.json()["id"]
    assert posted.headers["Location"] == f"/ai/v1/jobs/{job}"
    assert posted.json()["events"] == f"/ai/v1/jobs/{job}/events"
    events = server.http.get(f"{prefix}/v1/jobs/{job}/events", headers=headers)
    assert events.headers["X-Accel-Buffering"] == "no"
    assert f'"image": "/ai/v1/jobs/{job}/image"' in events.text
    asked = {"prompt": "a star", "size": "64x64", "response_format": "url"}
    drawn = server.http.post(f"{prefix}/v1/images/generations", json=asked, headers=headers)
    url = httpx.URL(drawn.json()["data"][0]["url"])
    assert (url.scheme, url.netloc) == ("https", b"localhost:8443")
    assert url.path.startswith("/ai/storage/")
    kept = server.http.get(url.path.removeprefix("/ai") if not prefix else url.path, headers=headers)
    assert kept.headers["Content-Type"] == "image/png"


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
    answer = server.http.get("/ai", headers=_forwarded(Host="localhost", Proto="https"), follow_redirects=False)
    assert answer.headers["Location"] == "https://localhost/ai/"


@pytest.mark.parametrize("prefix", ["/api", "/v1", "/sdapi", "/storage"])
@pytest.mark.parametrize("strips", [True, False])
def test_a_prefix_may_be_the_beginning_of_a_route(serve: StartServer, prefix: str, strips: bool) -> None:
    server = serve(root_path=prefix)
    left = "" if strips else prefix
    for route in ("/api/modes", "/v1/models", "/sdapi/v1/loras", "/health"):
        assert server.http.get(left + route).status_code == 200, route
    assert server.http.get(f"{left}/v1/jobs/nix").status_code == 404


def test_errors_have_the_shape_of_the_api_below_the_path(serve: StartServer, prefix: str) -> None:
    server = serve(root_path="/ai")
    assert "error" in server.http.post(f"{prefix}/v1/images/generations", json={"n": 0}).json()
    assert "errors" in server.http.post(f"{prefix}/sdapi/v1/txt2img", json={"steps": "x"}).json()
    assert server.http.get(f"{prefix}/nix").json()["type"] == "not_found"


def test_what_a_stranger_forwards_does_not_count(serve: StartServer) -> None:
    server = serve(trusted_proxies="10.0.0.0/8, fd00::/8")
    forged = _forwarded(Host="evil.example", Proto="https", Prefix="/evil", For="1.2.3.4")
    posted = server.http.post("/v1/jobs", json=BODY, headers=forged)
    assert posted.headers["Location"].startswith("/v1/jobs/")
    asked = {"prompt": "a star", "size": "64x64", "response_format": "url"}
    drawn = server.http.post("/v1/images/generations", json=asked, headers=forged)
    assert drawn.json()["data"][0]["url"].startswith(f"{server.url}/storage/")


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
def test_what_can_be_no_prefix_or_host_is_refused_with_a_sentence(serve: StartServer, header: dict[str, str]) -> None:
    answer = serve(trusted_proxies=HERE).http.get("/health", headers=header)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(f"Invalid {next(iter(header))} ")


def test_of_several_values_the_nearest_proxys_counts(serve: StartServer) -> None:
    server = serve(trusted_proxies=HERE)
    headers = _forwarded(Prefix="/evil, /ai", Host="evil.example, localhost")
    asked = {"prompt": "a star", "size": "64x64", "response_format": "url"}
    drawn = server.http.post("/v1/images/generations", json=asked, headers=headers)
    assert drawn.json()["data"][0]["url"].startswith("http://localhost/ai/storage/")


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
def test_a_wrong_setting_is_a_sentence(setting: str, value: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence.replace("/", "[/]").replace("?", "[?]")):
        Settings.load(environ={}, **{setting: value})


@pytest.mark.parametrize("name", [None, "pictures"])
@pytest.mark.parametrize("root_path", ["", "/ai"])
def test_links_are_right_in_another_application(serve: StartServer, name: str | None, root_path: str) -> None:
    inner = serve(root_path=root_path).app
    outer = FastAPI()
    outer.mount("/draw", inner, name=name)
    with listening(outer) as url, httpx.Client(base_url=url, timeout=LIMIT) as http:
        posted = http.post("/draw/v1/jobs", json=BODY)
        assert posted.headers["Location"] == f"{root_path}/draw/v1/jobs/{posted.json()['id']}"
        assert http.get("/draw/openapi.json").json()["servers"] == [{"url": f"{root_path}/draw"}]


def test_a_prefix_that_uvicorn_was_told_too_counts_once(serve: StartServer) -> None:
    app = serve(root_path="/ai").app
    with listening(app, root_path="/ai") as url, httpx.Client(base_url=url, timeout=LIMIT) as http:
        assert http.post("/v1/jobs", json=BODY).headers["Location"].startswith("/ai/v1/jobs/")


def test_head_is_get_without_a_body(server: Running) -> None:
    for path in ("/", "/health", "/ready", "/docs", "/openapi.json", "/page/app.js", "/metrics", "/api/modes"):
        got, head = server.http.get(path), server.http.head(path)
        assert (head.status_code, head.content) == (got.status_code, b""), path
        assert head.headers["Content-Type"] == got.headers["Content-Type"]
        if path != "/metrics":
            assert head.headers["Content-Length"] == str(len(got.content)), path
    assert server.http.head("/generate").status_code == 405
    assert server.http.head("/nix").status_code == 404


def test_head_on_a_stream_ends_at_once(server: Running) -> None:
    gate = Gate(shut=True)
    server.worker.before["step"] = gate
    events = server.http.post("/v1/jobs", json=BODY).json()["events"]
    answer = server.http.head(events)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    gate.open()
