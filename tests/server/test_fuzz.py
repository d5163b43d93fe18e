"""Random requests to every route: no response is a 5xx or contains a traceback."""

from __future__ import annotations

import base64
import json
import logging
import re
import socket
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import httpx2 as httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from imagegen_core import Job, LocalEngine, Settings
from imagegen_core.images.png import encode_png
from imagegen_core.request import ResolvedRequest
from imagegen_core.samplers import OwnScheduler
from imagegen_core.server import create_app
from imagegen_core.server.a1111 import Txt2ImgBody
from imagegen_core.server.a1111.pictures import ExtraBody
from imagegen_core.server.openai import EditBody, ImagesBody, VariationBody
from imagegen_core.server.schemas import GenerateBody
from tests.repetitions import FACTOR
from tests.server.conftest import LIMIT, listening
from tests.server.hostile.conftest import PROMPTLY, HealthWatch

logger = logging.getLogger(__name__)

EXAMPLES = 40 * FACTOR
"""Requests per route and kind; 400 result in more than 10,000 requests."""

_PICTURE = encode_png(np.zeros((8, 8, 3), np.uint8), {})
_MAX_TEXT, _MAX_BODY = 100_000, 3_000_000  # characters of a text, bytes of a body

fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
fuzzed_heavily = settings(fuzzed, max_examples=EXAMPLES // 4 + 1)


class Quick:
    """A worker that draws a single colour immediately.

    It has samplers, so that the server reads the fields that name a sampler.
    """

    worker_id = 0
    native_size = "64x64"
    default_sampler = "LCM"
    own_scheduler = OwnScheduler("LCMScheduler")

    def run_job(self, job: Job) -> tuple[bytes, int]:
        return self.run_job_with_latents(job)[:2]

    def run_job_with_latents(self, job: Job) -> tuple[bytes, int, bytes]:
        request = ResolvedRequest.of(job.req, self.native_size)
        pixels = np.full((request.size.height, request.size.width, 3), request.seed % 256, np.uint8)
        return encode_png(pixels, {"parameters": request.prompt}), request.seed, bytes(512)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    limits: dict[str, Any] = {"max_pixels": 256 * 256, "max_upscaled_pixels": 10**6, "default_timeout": LIMIT}
    with LocalEngine(Quick()) as engine:
        app = create_app(Settings.load(environ={}, **limits), engine)
        with listening(app) as url:
            yield url
            metrics = httpx.get(f"{url}/metrics").text
            count = sum(float(value) for value in re.findall(r"imagegen_http_responses_total\{.*\} (\S+)", metrics))
            logger.info("%d requests were answered", count)


@pytest.fixture(scope="module")
def schema(address: str) -> Any:
    return schemathesis.openapi.from_url(f"{address}/openapi.json")


def _check(response: Any) -> None:
    assert response.status_code < 500, response.content[:1000]
    assert b"Traceback" not in response.content


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_requests_generated_from_the_openapi_document(schema: Any, mode: GenerationMode) -> None:
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) > 30
    for operation in operations:

        @fuzzed
        @given(case=operation.as_strategy(generation_mode=mode))
        def call(case: Any) -> None:
            response = case.call(timeout=LIMIT)
            _check(response)

        with suppress(Unsatisfiable):  # an operation without input has no invalid requests
            call()


ROUTES = (
    ("POST", "/generate"),
    ("POST", "/superres"),
    ("POST", "/v1/jobs"),
    ("POST", "/v1/images/generations"),
    ("POST", "/v1/images/edits"),
    ("POST", "/v1/images/variations"),
    ("POST", "/sdapi/v1/txt2img"),
    ("POST", "/sdapi/v1/options"),
    ("POST", "/sdapi/v1/extra-single-image"),
    ("POST", "/sdapi/v1/png-info"),
    ("PUT", "/storage/key"),
)
FIELDS = [
    *GenerateBody.model_fields,
    *ImagesBody.model_fields,
    *EditBody.model_fields,
    *VariationBody.model_fields,
    *Txt2ImgBody.model_fields,
    *ExtraBody.model_fields,
]
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["64x64", "a star", "png"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize(("method", "path"), ROUTES)
@fuzzed
@given(
    fields=st.dictionaries(st.sampled_from(FIELDS), _values, max_size=6),
    query=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="#"), max_size=20),
)
def test_random_fields(address: str, method: str, path: str, fields: Any, query: str) -> None:
    body = json.dumps({"prompt": "a star", "size": "8x8", "image": "iVBORw0KGgo=", **fields})
    response = httpx.request(
        method, f"{address}{path}", params=query, content=body.encode(), headers=_json(), timeout=LIMIT
    )
    _check(response)


@pytest.mark.parametrize(("method", "path"), ROUTES)
@fuzzed
@given(
    body=st.binary(max_size=300),
    kind=st.sampled_from(
        ["application/json", "multipart/form-data; boundary=x", "multipart/form-data", "text/plain", "image/png", "%"]
    ),
)
def test_random_bodies(address: str, method: str, path: str, body: bytes, kind: str) -> None:
    headers = {"Content-Type": kind}
    response = httpx.request(method, f"{address}{path}", content=body, headers=headers, timeout=LIMIT)
    _check(response)


@pytest.mark.parametrize(
    "path", ["/storage/{}", "/v1/jobs/{}", "/v1/jobs/{}/image", "/v1/jobs/{}/events", "/v1/models/{}", "/{}"]
)
@fuzzed
@given(
    part=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="?#"), min_size=1, max_size=40),
    method=st.sampled_from(["GET", "PUT", "DELETE", "POST", "PATCH"]),
    header=st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
)
def test_random_paths(address: str, path: str, part: str, method: str, header: str) -> None:
    headers = {"Last-Event-ID": header.strip(), "Idempotency-Key": header.strip(), "X-Request-ID": header.strip()}
    response = httpx.request(method, f"{address}{path.format(quote(part))}", headers=headers, timeout=LIMIT)
    _check(response)


_LONG = st.builds(
    lambda pieces, times: ("".join(pieces) * times)[:_MAX_TEXT],
    st.lists(
        st.sampled_from([*":([<>])|\\,. 1aé\u3042", "BREAK ", "AND ", ":1.1)", "<lora:", "\U0001f600"]),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([1, 100, 10_000, _MAX_TEXT]),
)


@pytest.mark.parametrize("path", ["/generate", "/v1/jobs", "/v1/images/generations", "/sdapi/v1/txt2img"])
@fuzzed_heavily
@given(
    field=st.sampled_from(
        ["prompt", "negative_prompt", "scheduler", "schedule", "sampler_name", "size", "mode", "model", "unheard-of"]
    ),
    text=_LONG,
)
def test_long_texts(address: str, path: str, field: str, text: str) -> None:
    body = {"prompt": "a star", "size": "8x8", "width": 8, "height": 8, field: text}
    with _health_stays_prompt(address):
        _check(httpx.post(f"{address}{path}", json=body, timeout=LIMIT))


@pytest.mark.parametrize(("method", "path"), ROUTES)
@fuzzed_heavily
@given(
    opening=st.sampled_from(
        ["[", '{"a":', '[{"prompt":', '{"prompt":[', '{"styles":["a",', '{"alwayson_scripts":{"x":']
    ),
    depth=st.sampled_from([50, 300, 5_000, 100_000]),
    closing=st.booleans(),
)
def test_deep_json(address: str, method: str, path: str, opening: str, depth: int, closing: bool) -> None:
    pairs = {"[": "]", "{": "}"}
    closings = "".join(pairs[sign] for sign in reversed(opening) if sign in pairs)
    body = opening * depth + "1" + (closings * depth if closing else "")
    with _health_stays_prompt(address):
        _check(httpx.request(method, f"{address}{path}", content=body.encode(), headers=_json(), timeout=LIMIT))


@pytest.mark.parametrize(("method", "path"), ROUTES)
@fuzzed_heavily
@given(
    field=st.sampled_from(FIELDS),
    item=st.sampled_from(["1", "null", '"a"', "[]", "{}", "1e999", "-", '"\\ud83d"', "9" * 5_000]),
    count=st.sampled_from([1, 1_000, 200_000]),
    keyed=st.booleans(),
)
def test_wide_json(address: str, method: str, path: str, field: str, item: str, count: int, keyed: bool) -> None:
    items = [f'"{number}":{item}' for number in range(count)] if keyed else [item] * count
    inner = ",".join(items)
    body = f'{{"{field}":{"{" if keyed else "["}{inner}{"}" if keyed else "]"}}}'[:_MAX_BODY]
    with _health_stays_prompt(address):
        _check(httpx.request(method, f"{address}{path}", content=body.encode(), headers=_json(), timeout=LIMIT))


@pytest.mark.parametrize(("method", "path"), ROUTES)
@fuzzed
@given(
    field=st.sampled_from([*FIELDS, "a"]),
    surrogate=st.sampled_from([r"\ud83d", r"\udc00", r"a\ud83db", r"\ud83d\ud83d"]),
    key=st.booleans(),
)
def test_lone_surrogates(address: str, method: str, path: str, field: str, surrogate: str, key: bool) -> None:
    body = f'{{"prompt": "a star", "size": "8x8", "{surrogate if key else field}": "{surrogate}"}}'
    response = httpx.request(method, f"{address}{path}", content=body.encode(), headers=_json(), timeout=LIMIT)
    _check(response)
    response.content.decode()  # a response contains no lone surrogates


@pytest.mark.parametrize("path", ["/generate", "/v1/jobs", "/v1/images/edits", "/v1/images/variations"])
@fuzzed
@given(
    fields=st.dictionaries(
        st.sampled_from(FIELDS) | st.text("ab[]", max_size=8),
        st.text(max_size=20) | st.sampled_from(["{}", "[]", "null", '{"key": "a"}', "64x64", "1", "true"]),
        max_size=6,
    ),
    image=st.binary(max_size=40) | st.just(_PICTURE),
    name=st.sampled_from(["image", "image[]", "image[a]", "mask", "request", "prompt", "a"]),
)
def test_random_forms(address: str, path: str, fields: dict[str, str], image: bytes, name: str) -> None:
    data = {"prompt": "a star", "size": "8x8", **fields}
    files = {"image": _PICTURE, name: image}
    _check(httpx.post(f"{address}{path}", data=data, files=files, timeout=LIMIT))


def _huge(form: str, width: int, height: int) -> bytes:
    """Return the start of a picture whose header declares this size."""
    if form == "png":
        header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    if form == "gif":
        return b"GIF89a" + struct.pack("<HHBBB", width % 65536, height % 65536, 0x80, 0, 0) + bytes(6) + b";"
    if form == "bmp":
        return b"BM" + struct.pack("<IHHIIiiHH", 54, 0, 0, 54, 40, width, height, 1, 24) + bytes(24)
    bits = (width - 1) % 16384 | ((height - 1) % 16384) << 14
    lossless = b"\x2f" + struct.pack("<I", bits) + b"\x07\x10\x11\x11\x88\x88\xfe\x07"
    chunk = b"VP8L" + struct.pack("<I", len(lossless)) + lossless + bytes(len(lossless) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


@fuzzed_heavily
@given(
    form=st.sampled_from(["png", "gif", "bmp", "webp"]),
    width=st.sampled_from([1, 9_000, 16_384, 2**31 - 1]),
    height=st.sampled_from([1, 9_000, 16_384, 2**31 - 1]),
    rest=st.binary(max_size=40),
)
def test_pictures_with_huge_declared_sizes(address: str, form: str, width: int, height: int, rest: bytes) -> None:
    picture = _huge(form, width, height) + rest
    with _health_stays_prompt(address):
        _check(httpx.post(f"{address}/superres", files={"file": ("a", picture, "image/png")}, timeout=LIMIT))
        for path in ("png-info", "extra-single-image"):
            body = {"image": base64.b64encode(picture).decode()}
            _check(httpx.post(f"{address}/sdapi/v1/{path}", json=body, timeout=LIMIT))


@fuzzed_heavily
@given(data=st.data(), complete=st.booleans())
def test_requests_in_pieces(address: str, data: st.DataObject, complete: bool) -> None:
    body = b'{"prompt": "a star", "size": "8x8"}'
    headers = {"Host": "127.0.0.1", "Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = ["POST /generate HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    whole = "\r\n".join(lines).encode() + body
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=LIMIT) as connection:
        for start, end in pairwise([0, *cuts, len(whole) if complete else max(cuts, default=0)]):
            connection.sendall(whole[start:end])
        if complete:
            assert connection.recv(12) == b"HTTP/1.1 200"
    assert httpx.get(f"{address}/health", timeout=LIMIT).status_code == 200


@contextmanager
def _health_stays_prompt(address: str) -> Iterator[None]:
    """Check that ``/health`` responds promptly during other requests."""
    with HealthWatch(address) as health:
        yield
    assert health.worst < PROMPTLY


def _json() -> dict[str, str]:
    return {"Content-Type": "application/json"}
