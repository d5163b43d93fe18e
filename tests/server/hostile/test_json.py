"""Large, deep, wide, long and invalid JSON: RFC 8259."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import APIRouter, Request
from pydantic import BaseModel

from imagegen_core import LocalEngine, Settings
from imagegen_core.hosting.mode_manager import ModeManager
from imagegen_core.plugins.hookspecs import hookimpl
from imagegen_core.plugins.plugin import Plugin
from imagegen_core.plugins.registry import Registry
from imagegen_core.server.app import app_of
from imagegen_core.server.context import ServerContext
from imagegen_core.server.middleware import json_bodies
from imagegen_core.server.middleware.body_limit import PICTURES_IN_JSON
from imagegen_core.server.middleware.json_values import read_json
from tests.server.conftest import LIMIT, listening
from tests.server.hostile.conftest import PROMPTLY, Attacked
from tests.server.test_fuzz import Quick

FORMS = ("/generate", "/v1/jobs", "/v1/images/edits", "/v1/images/variations")
ROUTES = (
    *FORMS,
    "/v1/images/generations",
    "/sdapi/v1/txt2img",
    "/sdapi/v1/options",
    "/sdapi/v1/extra-single-image",
    "/sdapi/v1/png-info",
    "/api/modes/switch",
    "/api/models/load",
    "/api/models/unload",
    "/mine",
    "/mine/inner",
)
TEXT_FIELDS = {
    "/sdapi/v1/extra-single-image": "image",
    "/sdapi/v1/png-info": "image",
    "/api/modes/switch": "mode",
    "/api/models/load": "mode",
    "/api/models/unload": "mode",
}


class _Mine(BaseModel):
    prompt: str = ""
    words: list[str] = []


class _Routes:
    """A plugin with routes on the given router and on its own router."""

    @hookimpl
    def imagegen_routes(self, app: APIRouter) -> None:
        inner = APIRouter()

        async def echo(body: _Mine) -> _Mine:
            return body

        @app.post("/mine/raw")
        async def raw(request: Request) -> Any:
            return await request.json()

        app.post("/mine")(echo)
        inner.post("/mine/inner")(echo)
        app.include_router(inner)


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    registry = Registry([(Plugin("mine", "imagegen-mine", "1.0"), _Routes())])  # type: ignore[list-item]
    settings = Settings.load(environ={}, max_pixels=256 * 256)
    with LocalEngine(Quick()) as engine:
        app = app_of(ServerContext(settings, registry, ModeManager.drawing_with(engine, settings, registry)))
        with listening(app) as url, httpx.Client(base_url=url, timeout=LIMIT) as http:
            yield http


def _post(http: httpx.Client, path: str, body: bytes | str) -> httpx.Response:
    return http.post(path, content=body, headers={"Content-Type": "application/json"})


def _message(response: httpx.Response) -> str:
    body = response.json()
    return str(body["error"]["message"] if isinstance(body.get("error"), dict) else body["detail"])


def _refusal_status(path: str) -> int:
    return 400 if path.startswith("/v1/images") else 422  # the status of OpenAI's API for invalid input


BODIES = {
    "an array 300 deep": (b'{"prompt": ' + b"[" * 300 + b"]" * 300 + b"}", "nested too deep"),
    "an object 300 deep": (b'{"prompt": ' + b'{"a":' * 300 + b"1" + b"}" * 301, "nested too deep"),
    "40,000 brackets": (b"[" * 40_000, "nested too deep"),
    "a million brackets": (b"[" * 10**6, "too many values"),
    "half a million numbers": (b'{"prompt": "", "styles": [' + b"1," * 500_000 + b"1]}", "too many values"),
    "300,000 arrays": (b'{"prompt": [' + b"[]," * 300_000 + b"1]}", "too many values"),
    "300,000 objects": (b'{"prompt": [' + b"{}," * 300_000 + b"1]}", "too many values"),
    "60,000 fields": (json.dumps(dict.fromkeys(map(str, range(60_000)), 1)).encode(), "too many values"),
    "20,000 numbers": (json.dumps({"prompt": "", "styles": [1] * 20_000}).encode(), "too many values"),
    "a million digits": (b'{"seed": ' + b"1" * 10**6 + b"}", "too large"),
    "a number beyond floats": (b'{"guidance_scale": 1e99999}', "too large"),
    "a whole number beyond floats": (b'{"guidance_scale": 1' + b"0" * 400 + b"}", "too large"),
    "NaN": (b'{"guidance_scale": NaN}', "no NaN"),
    "Infinity": (b'{"guidance_scale": -Infinity}', "no -Infinity"),
    "a duplicate name": (b'{"prompt": "a", "prompt": "b"}', "'prompt' stands twice"),
    "invalid UTF-8": (b'{"prompt": "\xff"}', "not UTF-8"),
    "half a surrogate pair as bytes": (b'{"prompt": "\xed\xa0\xbd"}', "not UTF-8"),
    "UTF-16": ('{"prompt": "a"}'.encode("utf-16"), "not UTF-8"),
    "an unfinished object": (b'{"prompt": ', "not JSON"),
    "a control character": (b'{"prompt": "\x01"}', "not JSON"),
}


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("name", BODIES)
def test_an_invalid_body_is_refused_with_a_short_reason(http: httpx.Client, path: str, name: str) -> None:
    body, reason = BODIES[name]
    response = _post(http, path, body)
    assert response.status_code == _refusal_status(path), response.text[:300]
    assert reason in _message(response)
    assert len(_message(response)) < 300


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("half", ["\\ud83d", "\\ude00", "\\ude00\\ud83d", "whole \\ud83d\\ude00 and half \\ud83d"])
def test_half_a_surrogate_pair_is_refused_in_names_and_texts(http: httpx.Client, path: str, half: str) -> None:
    field = TEXT_FIELDS.get(path, "prompt")
    bodies = (
        f'{{"{field}": "{half}"}}',
        f'{{"{half}": 1}}',
        f'{{"{field}": "a", "x": [{{"y": ["{half}"]}}]}}',
        f'"{half}"',
    )
    for body in bodies:
        response = _post(http, path, body)
        assert response.status_code == _refusal_status(path), response.text[:300]
        assert "half a surrogate pair" in _message(response)


def test_a_whole_surrogate_pair_and_a_bom_are_accepted(http: httpx.Client) -> None:
    assert _post(http, "/mine", '{"prompt": "\\ud83d\\ude00"}').json()["prompt"] == "\N{GRINNING FACE}"
    assert (
        _post(http, "/mine", b'\xef\xbb\xbf{"prompt": "a"}').json()["prompt"] == "a"
    )  # RFC 8259 allows readers to ignore a BOM


def test_commas_in_a_text_are_not_counted_as_values(http: httpx.Client) -> None:
    prompt = "a, " * 50_000
    response = _post(http, "/mine", json.dumps({"prompt": prompt}))
    assert response.status_code == 200, response.text[:300]
    assert response.json()["prompt"] == prompt


def test_the_wrong_field_is_named(http: httpx.Client) -> None:
    assert _post(http, "/generate", '{"prompt": "\\ud83d"}').json()["field"] == "prompt"
    assert _post(http, "/v1/images/generations", '{"prompt": "\\ud83d"}').json()["error"]["param"] == "prompt"


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("body", ["null", "1", '"a"', "[]", "[null]", "true"])
def test_json_other_than_an_object_is_refused(http: httpx.Client, path: str, body: str) -> None:
    may_be_null = path == "/api/models/unload" and body == "null"
    assert _post(http, path, body).status_code == (409 if may_be_null else _refusal_status(path))


def test_only_the_first_wrong_item_of_a_list_is_reported(http: httpx.Client) -> None:
    response = _post(http, "/mine/inner", json.dumps({"words": [1] * 9_000}))
    assert response.status_code == 422
    assert _message(response) == "Invalid words.0 1: input should be a valid string"


def test_a_long_field_name_gives_a_short_response(http: httpx.Client) -> None:
    for path in ROUTES:
        response = _post(http, path, json.dumps({"n" * 500_000: [], "prompt": {"p" * 10_000: 1}, "mode": []}))
        assert len(response.content) < 2000, path


@pytest.mark.parametrize("path", ROUTES[:-1])
@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "%", ""]
)
def test_other_content_types_are_refused(http: httpx.Client, path: str, kind: str) -> None:
    response = http.post(path, content=b'{"prompt": "a"}', headers={"Content-Type": kind} if kind else {})
    if path in FORMS:
        is_form = kind.startswith("multipart/form-data")
        assert response.status_code == (400 if is_form else 415)
        sentence = "This route takes JSON or a form: send application/json or multipart/form-data"
        assert is_form or _message(response) == sentence
        return
    assert response.status_code == 415
    assert _message(response) == "This route takes JSON: send the body with the header Content-Type: application/json"


def test_other_json_content_types_are_accepted(http: httpx.Client) -> None:
    for kind in ("application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.mine+json"):
        response = http.post("/mine", content=b'{"prompt": "a"}', headers={"Content-Type": kind})
        assert response.json()["prompt"] == "a"


def test_a_plugin_route_with_raw_json_is_protected(http: httpx.Client) -> None:
    for kind in ("application/json", "text/plain"):
        headers = {"Content-Type": kind}
        assert http.post("/mine/raw", content=b'{"a": [1]}', headers=headers).json() == {"a": [1]}
        for body in (b"", b"[" * 300, b'"\\ud83d"', b"NaN"):
            assert http.post("/mine/raw", content=body, headers=headers).status_code == 422, (kind, body)


@pytest.mark.parametrize("path", ROUTES)
def test_json_without_a_picture_has_a_smaller_limit(http: httpx.Client, path: str) -> None:
    response = _post(http, path, json.dumps({"image": "A" * 2**21}))
    assert (response.status_code == 413) is (path not in PICTURES_IN_JSON)
    if path not in PICTURES_IN_JSON:
        assert _message(response) == "This route reads bodies of up to 1048576 bytes: send less"


@pytest.mark.parametrize(("size", "off_the_loop"), [(1000, False), (100_000, True)])
def test_large_json_is_read_once_and_off_the_event_loop(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch, size: int, off_the_loop: bool
) -> None:
    on_loops: list[bool] = []

    def read(body: bytes) -> Any:
        on_loops.append(asyncio._get_running_loop() is not None)
        return read_json(body)

    def parse(_: Request) -> Any:
        raise AssertionError("FastAPI parsed the body a second time")

    monkeypatch.setattr(json_bodies, "read_json", read)
    monkeypatch.setattr(Request, "json", parse)
    response = _post(http, "/sdapi/v1/png-info", json.dumps({"image": "A" * size}))
    assert response.status_code == 422
    assert on_loops == [not off_the_loop]


ATTACKS = {
    "styles of 3 MB": ("/sdapi/v1/txt2img", b'{"prompt": "a", "styles": [' + b"1," * 1_500_000 + b"1]}"),
    "styles of 1 MB": ("/sdapi/v1/txt2img", b'{"prompt": "a", "styles": [' + b"1," * 500_000 + b"1]}"),
    "styles below the limit": ("/sdapi/v1/txt2img", b'{"prompt": "a", "styles": [' + b"1," * 9_000 + b"1]}"),
    "31 MB of arrays": ("/sdapi/v1/png-info", b'{"image": [' + b"[]," * 10_000_000 + b"1]}"),
    "31 MB of brackets": ("/sdapi/v1/png-info", b"[" * 31 * 10**6),
    "31 MB of escapes": ("/sdapi/v1/png-info", b'{"image": "' + b"\\n" * 15_000_000 + b'"}'),
    "31 MB of quotes": ("/sdapi/v1/png-info", b'""' * 15_000_000),
    "31 MB of digits": ("/sdapi/v1/png-info", b'{"image": ' + b"1" * 31_000_000 + b"}"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_hostile_json_does_not_delay_other_clients(attacked: Attacked, name: str) -> None:
    path, body = ATTACKS[name]
    before = attacked.memory
    with attacked.watch() as health:
        for _ in range(2):
            assert _post(attacked.http, path, body).status_code in (413, 422)
    assert health.worst < PROMPTLY
    assert attacked.memory < before + 150 * 2**20
