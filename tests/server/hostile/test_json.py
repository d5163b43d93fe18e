"""JSON that is large, deep, wide, long or no JSON at all: RFC 8259."""

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

ROUTES = (
    "/generate",
    "/v1/jobs",
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
    """A plugin with a route on the router that it is given, and another on a router of its own."""

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


def _message(answer: httpx.Response) -> str:
    told = answer.json()
    return str(told["error"]["message"] if isinstance(told.get("error"), dict) else told["detail"])


def _refused(path: str) -> int:
    return 400 if path.startswith("/v1/images") else 422  # as OpenAI's API answers wrong input


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
    "a name twice": (b'{"prompt": "a", "prompt": "b"}', "'prompt' stands twice"),
    "no UTF-8": (b'{"prompt": "\xff"}', "no UTF-8"),
    "half a pair as bytes": (b'{"prompt": "\xed\xa0\xbd"}', "no UTF-8"),
    "UTF-16": ('{"prompt": "a"}'.encode("utf-16"), "no UTF-8"),
    "half of an object": (b'{"prompt": ', "no JSON"),
    "a control character": (b'{"prompt": "\x01"}', "no JSON"),
}


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("name", BODIES)
def test_what_is_wrong_with_a_body_is_a_sentence(http: httpx.Client, path: str, name: str) -> None:
    body, said = BODIES[name]
    answer = _post(http, path, body)
    assert answer.status_code == _refused(path), answer.text[:300]
    assert said in _message(answer)
    assert len(_message(answer)) < 300


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("half", ["\\ud83d", "\\ude00", "\\ude00\\ud83d", "whole \\ud83d\\ude00 and half \\ud83d"])
def test_half_a_character_is_refused_in_names_and_texts(http: httpx.Client, path: str, half: str) -> None:
    field = TEXT_FIELDS.get(path, "prompt")
    bodies = (
        f'{{"{field}": "{half}"}}',
        f'{{"{half}": 1}}',
        f'{{"{field}": "a", "x": [{{"y": ["{half}"]}}]}}',
        f'"{half}"',
    )
    for body in bodies:
        answer = _post(http, path, body)
        assert answer.status_code == _refused(path), answer.text[:300]
        assert "half a surrogate pair" in _message(answer)


def test_a_whole_character_is_none_of_that(http: httpx.Client) -> None:
    assert _post(http, "/mine", '{"prompt": "\\ud83d\\ude00"}').json()["prompt"] == "\N{GRINNING FACE}"
    assert (
        _post(http, "/mine", b'\xef\xbb\xbf{"prompt": "a"}').json()["prompt"] == "a"
    )  # RFC 8259 lets a BOM be ignored


def test_commas_of_a_text_are_no_values(http: httpx.Client) -> None:
    prompt = "a, " * 50_000
    answer = _post(http, "/mine", json.dumps({"prompt": prompt}))
    assert answer.status_code == 200, answer.text[:300]
    assert answer.json()["prompt"] == prompt


def test_the_wrong_field_is_named(http: httpx.Client) -> None:
    assert _post(http, "/generate", '{"prompt": "\\ud83d"}').json()["field"] == "prompt"
    assert _post(http, "/v1/images/generations", '{"prompt": "\\ud83d"}').json()["error"]["param"] == "prompt"


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("body", ["null", "1", '"a"', "[]", "[null]", "true"])
def test_json_that_is_no_object_is_refused(http: httpx.Client, path: str, body: str) -> None:
    may_be_null = path == "/api/models/unload" and body == "null"
    assert _post(http, path, body).status_code == (409 if may_be_null else _refused(path))


def test_a_list_of_wrong_items_is_told_by_its_first(http: httpx.Client) -> None:
    answer = _post(http, "/mine/inner", json.dumps({"words": [1] * 9_000}))
    assert answer.status_code == 422
    assert _message(answer) == "Invalid words.0 1: input should be a valid string"


def test_a_long_name_of_a_field_is_cut(http: httpx.Client) -> None:
    for path in ROUTES:
        answer = _post(http, path, json.dumps({"n" * 500_000: [], "prompt": {"p" * 10_000: 1}, "mode": []}))
        assert len(answer.content) < 2000, path


@pytest.mark.parametrize("path", ROUTES[:-1])
@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "%", ""]
)
def test_other_content_types_are_refused_unread(http: httpx.Client, path: str, kind: str) -> None:
    answer = http.post(path, content=b'{"prompt": "a"}', headers={"Content-Type": kind} if kind else {})
    assert answer.status_code == 415
    assert _message(answer) == "This route takes JSON: send the body with the header Content-Type: application/json"


def test_json_by_other_names_is_read(http: httpx.Client) -> None:
    for kind in ("application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.mine+json"):
        answer = http.post("/mine", content=b'{"prompt": "a"}', headers={"Content-Type": kind})
        assert answer.json()["prompt"] == "a"


def test_a_plugin_that_reads_json_itself_is_guarded(http: httpx.Client) -> None:
    for kind in ("application/json", "text/plain"):
        headers = {"Content-Type": kind}
        assert http.post("/mine/raw", content=b'{"a": [1]}', headers=headers).json() == {"a": [1]}
        for body in (b"", b"[" * 300, b'"\\ud83d"', b"NaN"):
            assert http.post("/mine/raw", content=body, headers=headers).status_code == 422, (kind, body)


@pytest.mark.parametrize("path", ROUTES)
def test_json_without_a_picture_has_a_limit_of_its_own(http: httpx.Client, path: str) -> None:
    answer = _post(http, path, json.dumps({"image": "A" * 2**21}))
    assert (answer.status_code == 413) is (path not in PICTURES_IN_JSON)
    if path not in PICTURES_IN_JSON:
        assert _message(answer) == "This route reads bodies of up to 1048576 bytes: send less"


@pytest.mark.parametrize(("size", "off_the_loop"), [(1000, False), (100_000, True)])
def test_large_json_is_read_once_and_not_on_the_event_loop(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch, size: int, off_the_loop: bool
) -> None:
    on_loops: list[bool] = []

    def read(body: bytes) -> Any:
        on_loops.append(asyncio._get_running_loop() is not None)
        return read_json(body)

    def parse(_: Request) -> Any:
        raise AssertionError("FastAPI parsed the body once more")

    monkeypatch.setattr(json_bodies, "read_json", read)
    monkeypatch.setattr(Request, "json", parse)
    answer = _post(http, "/sdapi/v1/png-info", json.dumps({"image": "A" * size}))
    assert answer.status_code == 422
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
def test_others_are_served_meanwhile(attacked: Attacked, name: str) -> None:
    path, body = ATTACKS[name]
    before = attacked.memory
    with attacked.watch() as health:
        for _ in range(2):
            assert _post(attacked.http, path, body).status_code in (413, 422)
    assert health.worst < PROMPTLY
    assert attacked.memory < before + 150 * 2**20
