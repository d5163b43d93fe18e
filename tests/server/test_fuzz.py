"""Requests without end over every route: nothing may come back as a 5xx, or give away a traceback."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import suppress
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
from imagegen_core.request import Drawing
from imagegen_core.server import create_app
from imagegen_core.server.results import GenerateBody
from imagegen_core.server.routes.a1111 import Txt2ImgBody
from imagegen_core.server.routes.a1111.pictures import ExtraBody
from imagegen_core.server.routes.openai import ImagesBody
from tests.server.conftest import LIMIT, listening

logger = logging.getLogger(__name__)

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "40"))
"""Requests for each route and kind; 300 make 10,000 and more."""

fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


class Quick:
    """A worker that draws one colour, at once."""

    worker_id = 0
    native_size = "64x64"

    def run_job(self, job: Job) -> tuple[bytes, int]:
        return self.run_job_with_latents(job)[:2]

    def run_job_with_latents(self, job: Job) -> tuple[bytes, int, bytes]:
        drawing = Drawing.of(job.req, self.native_size)
        pixels = np.full((drawing.size.height, drawing.size.width, 3), drawing.seed % 256, np.uint8)
        return encode_png(pixels, {"parameters": drawing.prompt}), drawing.seed, bytes(512)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    limits: dict[str, Any] = {"max_pixels": 256 * 256, "max_upscaled_pixels": 10**6, "default_timeout": LIMIT}
    with LocalEngine(Quick()) as engine:
        app = create_app(Settings.load(environ={}, **limits), engine)
        with listening(app) as url:
            yield url
            answers = httpx.get(f"{url}/metrics").text
            count = sum(float(value) for value in re.findall(r"imagegen_http_responses_total\{.*\} (\S+)", answers))
            logger.info("%d requests were answered", count)


@pytest.fixture(scope="module")
def schema(address: str) -> Any:
    return schemathesis.openapi.from_url(f"{address}/openapi.json")


def _check(answer: Any) -> None:
    assert answer.status_code < 500, answer.content[:1000]
    assert b"Traceback" not in answer.content


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_what_the_document_allows_and_what_it_does_not(schema: Any, mode: GenerationMode) -> None:
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) > 30
    for operation in operations:

        @fuzzed
        @given(case=operation.as_strategy(generation_mode=mode))
        def call(case: Any) -> None:
            answer = case.call(timeout=LIMIT)
            _check(answer)

        with suppress(Unsatisfiable):  # nothing can be wrong where nothing is given
            call()


ROUTES = (
    ("POST", "/generate"),
    ("POST", "/superres"),
    ("POST", "/v1/jobs"),
    ("POST", "/v1/images/generations"),
    ("POST", "/sdapi/v1/txt2img"),
    ("POST", "/sdapi/v1/options"),
    ("POST", "/sdapi/v1/extra-single-image"),
    ("POST", "/sdapi/v1/png-info"),
    ("PUT", "/storage/key"),
)
FIELDS = [
    *GenerateBody.model_fields,
    *ImagesBody.model_fields,
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
def test_fields_of_every_kind(address: str, method: str, path: str, fields: Any, query: str) -> None:
    body = json.dumps({"prompt": "a star", "size": "8x8", "image": "iVBORw0KGgo=", **fields})
    answer = httpx.request(
        method, f"{address}{path}", params=query, content=body.encode(), headers=_json(), timeout=LIMIT
    )
    _check(answer)


@pytest.mark.parametrize(("method", "path"), ROUTES)
@fuzzed
@given(
    body=st.binary(max_size=300),
    kind=st.sampled_from(
        ["application/json", "multipart/form-data; boundary=x", "multipart/form-data", "text/plain", "image/png", "%"]
    ),
)
def test_bodies_of_every_kind(address: str, method: str, path: str, body: bytes, kind: str) -> None:
    headers = {"Content-Type": kind}
    answer = httpx.request(method, f"{address}{path}", content=body, headers=headers, timeout=LIMIT)
    _check(answer)


@pytest.mark.parametrize(
    "path", ["/storage/{}", "/v1/jobs/{}", "/v1/jobs/{}/image", "/v1/jobs/{}/events", "/v1/models/{}", "/{}"]
)
@fuzzed
@given(
    part=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="?#"), min_size=1, max_size=40),
    method=st.sampled_from(["GET", "PUT", "DELETE", "POST", "PATCH"]),
    header=st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
)
def test_addresses_of_every_kind(address: str, path: str, part: str, method: str, header: str) -> None:
    headers = {"Last-Event-ID": header.strip(), "Idempotency-Key": header.strip(), "X-Request-ID": header.strip()}
    answer = httpx.request(method, f"{address}{path.format(quote(part))}", headers=headers, timeout=LIMIT)
    _check(answer)


def _json() -> dict[str, str]:
    return {"Content-Type": "application/json"}
