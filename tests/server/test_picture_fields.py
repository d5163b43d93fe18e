"""Input pictures of ``/generate`` and ``/v1/jobs``: as forms, as base64, and by keys of the store."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image

from imagegen_core import GenerateRequest, Job
from imagegen_core.parameter import Parameter
from imagegen_core.request import InpaintOptions
from imagegen_core.server.form_fields import values_of
from tests.engine.faults import Gate
from tests.server.conftest import Running, StartServer
from tests.server.test_openai_edits import encoded, picture, white

FIELDS: dict[str, Any] = {"prompt": "a star", "seed": 7, "num_inference_steps": 2}
IMAGE, MASK = encoded(picture()), encoded(white())


@pytest.fixture(scope="module")
def painted(tiny_worker: Any) -> bytes:
    """The expected picture with `IMAGE`, `MASK` and blurred edges, drawn without a server."""
    request = GenerateRequest(image=IMAGE, mask=MASK, inpaint=InpaintOptions(blur=2.0), **FIELDS)
    return bytes(tiny_worker.run_job(Job(req=request))[0])


FORMS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "brackets": ({**{name: str(value) for name, value in FIELDS.items()}, "inpaint[blur]": "2"}, {}),
    "an object as text": ({**{name: str(value) for name, value in FIELDS.items()}, "inpaint": '{"blur": 2}'}, {}),
    "a part with JSON": (
        {},
        {"request": ("", json.dumps({**FIELDS, "inpaint": {"blur": 2}}), "application/json")},
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_draws_like_python(server: Running, painted: bytes, name: str) -> None:
    data, parts = FORMS[name]
    files = {"image": ("in.png", IMAGE), "mask": ("m", MASK, "application/octet-stream"), **parts}
    response = server.http.post("/generate", data=data, files=files)
    assert response.status_code == 200, response.text
    assert response.content == painted


@pytest.mark.parametrize("kind", ["base64", "data URL", "key", "lines"])
def test_json_draws_like_python(server: Running, painted: bytes, kind: str) -> None:
    for name, data in (("image", IMAGE), ("mask", MASK)):
        assert server.http.put(f"/storage/my-{name}.png", content=data).status_code == 204
    texts = {"image": base64.b64encode(IMAGE).decode(), "mask": base64.b64encode(MASK).decode()}
    given: Any = {
        "base64": texts,
        "data URL": {name: f"data:image/png;base64,{text}" for name, text in texts.items()},
        "key": {name: {"key": f"my-{name}"} for name in texts},
        "lines": {name: base64.encodebytes(data).decode() for name, data in (("image", IMAGE), ("mask", MASK))},
    }[kind]
    response = server.http.post("/generate", json={**FIELDS, "inpaint": {"blur": 2}, **given})
    assert response.status_code == 200, response.text
    assert response.content == painted


def test_a_key_in_a_form(server: Running) -> None:
    first = server.http.post("/generate", json=FIELDS | {"size": "64x64"})
    key = first.headers["x-lcm-image-key"]
    form = {**FIELDS, "image": json.dumps({"key": key})}
    answers = [
        server.http.post("/generate", files={name: (None, str(value)) for name, value in form.items()}),
        server.http.post("/generate", json=FIELDS | {"image": base64.b64encode(first.content).decode()}),
    ]
    assert answers[0].content == answers[1].content


def test_only_own_keys_are_read(serve: StartServer) -> None:
    server = serve(api_keys="mine,theirs")
    mine, theirs = {"X-API-Key": "mine"}, {"X-API-Key": "theirs"}
    server.http.put("/storage/in", content=IMAGE, headers=theirs)
    made = server.http.post("/generate", json=FIELDS | {"size": "64x64"}, headers=theirs).headers["x-lcm-image-key"]

    def draw(key: str, caller: dict[str, str]) -> Any:
        return server.http.post("/generate", json=FIELDS | {"image": {"key": key}}, headers=caller)

    for key in ("in", made):
        assert draw(key, theirs).status_code == 200
        refused, missing = draw(key, mine), draw("0" * 8, mine)
        assert refused.status_code == missing.status_code == 422
        sentence = "Invalid image: nothing is kept under '{}', or no longer; store the picture again"
        assert refused.json()["detail"] == sentence.format(key)
        assert missing.json()["detail"] == sentence.format("0" * 8)


WRONG: dict[str, tuple[Any, str, str]] = {
    "a parent folder": ({"key": "../secret"}, "image", "Invalid key '../secret'"),
    "a missing key": ({"key": "none"}, "image", "nothing is kept under 'none'"),
    "a number": (5, "image", "Invalid image 5: expected base64, a data URL, or the key of a stored picture"),
    "an empty object": ({}, "image", "Invalid image {}: expected base64"),
    "a path": ("/etc/passwd", "image", "Cannot read the image: its text is not base64"),
    "a file's URL": ("file:///etc/passwd", "image", "Cannot read the image: its text is not base64"),
    "a URL": ("http://example.org/a.png", "image", "this server fetches no pictures (IMAGEGEN_PICTURE_HOSTS allows"),
    "two pictures": (["AAAA", "AAAA"], "image", "Invalid image with 2 pictures"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_picture_is_refused_with_a_sentence(server: Running, name: str) -> None:
    value, field, sentence = WRONG[name]
    response = server.http.post("/generate", json=FIELDS | {"image": value})
    assert (response.status_code, response.json()["field"]) == (422, field), response.text
    assert sentence in response.json()["detail"]


def test_the_largest_input_picture_is_limited(serve: StartServer) -> None:
    server = serve(max_input_pixels=64 * 64 - 1)
    response = server.http.post("/generate", data={"prompt": "a star"}, files={"image": IMAGE})
    assert response.json()["detail"] == (
        "Invalid image of 64x64 pixels: this server reads pictures of up to 4095 pixels, so scale it down"
    )


def test_waiting_pictures_are_limited(serve: StartServer) -> None:
    server = serve(max_body_bytes=len(IMAGE) + 2048)
    server.worker.before["step"] = gate = Gate(shut=True)
    posted = [server.http.post("/v1/jobs", data={"prompt": "a star"}, files={"image": IMAGE}) for _ in range(20)]
    gate.open()
    statuses = {answer.status_code for answer in posted}
    assert statuses == {202, 429}


def test_a_form_is_a_job_whose_idempotency_ignores_the_boundary(server: Running) -> None:
    def post(prompt: str, boundary: str) -> Any:
        headers = {"Idempotency-Key": "one", "Content-Type": f"multipart/form-data; boundary={boundary}"}
        return server.http.post("/v1/jobs", data={"prompt": prompt}, files={"image": ("a", IMAGE)}, headers=headers)

    first, again, other = (
        post("a star", "aaaaaaaaaaaaaaaa"),
        post("a star", "bbbbbbbb"),
        post("a sun", "aaaaaaaaaaaaaaaa"),
    )
    assert (first.status_code, other.status_code) == (202, 409)
    assert first.json()["id"] == again.json()["id"]


def test_a_form_needs_no_picture_and_prompts_may_be_empty(server: Running) -> None:
    response = server.http.post("/generate", files={"prompt": (None, ""), "size": (None, "64x64"), "seed": (None, "7")})
    assert Image.open(io.BytesIO(response.content)).size == (64, 64)


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ([("a[b]c", "1")], "Invalid field 'a[b]c': expected a name such as image, image[] or style_lora[style]"),
        ([("a", "1"), ("a", "2")], "The field 'a' stands twice in the form: send it once"),
        ([("a", "1"), ("a[b]", "2")], "The field 'a' stands twice in the form: send it once"),
        ([("a[]", "1"), ("a[b]", "2")], "The field 'a' stands twice in the form: send it once"),
        ([("a[b]", "1"), ("a[b]", "2")], "The field 'a' stands twice in the form: send it once"),
        ([("request", '{"a": 1}'), ("a", "2")], "The field 'a' stands twice in the form: send it once"),
        ([("request", "[1]")], "The part 'request' is not a JSON object: send the fields in one"),
        ([("a[[b]]", "1")], "Invalid field 'a[[b]]'"),
        ([("a" + "[b]" * 9, "1")], "expected a name such as"),
    ],
)
def test_a_wrong_form_is_refused(parts: list[tuple[str, str]], sentence: str) -> None:
    with pytest.raises(ValueError, match=".") as caught:
        values_of(parts, (), {})
    assert sentence in str(caught.value)


def test_values_of_a_form() -> None:
    parts: list[tuple[str, str | bytes]] = [
        ("prompt", ""),
        ("size", ""),
        ("image[]", b"1"),
        ("image[]", b"2"),
        ("mask", b"3"),
        ("mask", b"4"),
        ("style_lora[style]", "a"),
        ("style_lora[level]", "2"),
        ("micro_conditioning[crop][]", "1"),
        ("micro_conditioning[crop][]", "2"),
        ("outpaint", ' {"left": 8}'),
        ("words", '["a"]'),
        ("watermark", "{5}"),
        ("request", '{"seed": 4}'),
    ]
    words, watermark = Parameter("words", list[str], [], ""), Parameter("watermark", str, "", "")
    assert values_of(parts, {"outpaint"}, {"words": words, "watermark": watermark}) == {
        "prompt": "",
        "image": [b"1", b"2"],
        "mask": [b"3", b"4"],
        "style_lora": {"style": "a", "level": "2"},
        "micro_conditioning": {"crop": ["1", "2"]},
        "outpaint": {"left": 8},
        "words": ["a"],
        "watermark": "{5}",
        "seed": 4,
    }
