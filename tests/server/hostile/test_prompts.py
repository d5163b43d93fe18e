"""Prompts that froze the process or delayed other clients in the past."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import httpx2 as httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imagegen_core import InvalidRequestError
from imagegen_core.diffusion.encoder_embeddings import EncoderEmbeddings
from imagegen_core.diffusion.prompts import chunks, parse
from imagegen_core.server.a1111.prompt_syntax import check_negative_prompt, read_prompt
from tests.server.conftest import LIMIT
from tests.server.hostile.conftest import PROMPTLY, Attacked

MEGABYTE = 10**6
SHAPES = [
    ":",
    "(",
    ")",
    "[",
    "]",
    "<",
    ">",
    "\\",
    "|",
    "1",
    "a",
    " ",
    "é",
    ":1",
    ":1.1)",
    "(a[b",
    "([a])",
    "<a:",
    "a,b ",
]
GROWTH = 8  # of the text's length; a quadratic parser takes 64 times as long
_AT_MOST = 24


class Letters:
    """A tokenizer with letters as tokens, so that the search for embeddings starts at each letter."""

    model_max_length = 77
    unk_token_id = 0

    def __call__(self, texts: list[str], **_: Any) -> Any:
        return type("Encoded", (), {"input_ids": [[*map(ord, text)] for text in texts]})

    def convert_tokens_to_ids(self, token: str) -> int:
        return ord(token[0])

    def convert_ids_to_tokens(self, number: int) -> str:
        return f"{chr(number)}</w>"


TOKENIZER = Letters()
EMBEDDINGS = EncoderEmbeddings(TOKENIZER, {name: [0] for name in ("a", "aaaa", "(((a", "bad(a)", "a" * 60, ":1")})  # type: ignore[dict-item]
PARSERS: dict[str, Callable[[str], object]] = {
    "weights": parse,
    "names": lambda text: parse(text, EMBEDDINGS.names),
    "chunks": lambda text: chunks(TOKENIZER, parse(text, EMBEDDINGS.names), EMBEDDINGS),
    "networks": read_prompt,
    "negative": check_negative_prompt,
}


def _seconds(parser: Callable[[str], object], text: str, times: int = 3) -> float:
    """Return this thread's shortest time to parse `text`."""
    seconds = []
    for _ in range(times):
        began = time.thread_time()
        with contextlib.suppress(InvalidRequestError):
            parser(text)
        seconds.append(time.thread_time() - began)
    return min(seconds)


@pytest.mark.parametrize("parser", [name for name in PARSERS if name != "chunks"])
@pytest.mark.parametrize("shape", SHAPES[:12])
def test_a_megabyte_of_one_character_is_parsed_quickly(parser: str, shape: str) -> None:
    assert _seconds(PARSERS[parser], shape * MEGABYTE, times=2) < PROMPTLY


@pytest.mark.parametrize("parser", PARSERS)
@settings(max_examples=25, deadline=None)
@given(
    shape=st.lists(st.sampled_from([*SHAPES, "BREAK ", "AND", "\n", "b)", "lora:", "0.5]"]), max_size=4).map("".join)
)
@example(shape=":1")
@example(shape="(")
def test_parsing_time_does_not_grow_quadratically(parser: str, shape: str) -> None:
    def text(length: int) -> str:
        return (shape * length)[:length] + ":" + "1" * length

    base = _seconds(PARSERS[parser], text(1000))
    assert _seconds(PARSERS[parser], text(1000 * GROWTH)) < _AT_MOST * base + 0.02


ROUTES = {
    "/generate": {"size": "64x64"},
    "/v1/jobs": {"size": "64x64"},
    "/v1/images/generations": {"size": "64x64"},
    "/sdapi/v1/txt2img": {"width": 64, "height": 64, "steps": 1, "cfg_scale": 2},
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
@pytest.mark.parametrize(
    "prompt", [":" + "1" * 32_000, "([:<" * 100_000, "x" * 100_000], ids=["weight", "mixed", "word"]
)
def test_too_long_prompts_are_refused_without_delaying_others(
    attacked: Attacked, route: str, field: str, prompt: str
) -> None:
    with attacked.watch() as health:
        body = {"prompt": "a", **ROUTES[route], field: prompt}
        response = httpx.post(f"{attacked.url}{route}", json=body, timeout=LIMIT)
    assert response.status_code in (400, 422)
    assert f"Invalid {field} of {len(prompt)} characters: this server takes up to 10000" in response.text
    assert health.worst < PROMPTLY


def test_many_breaks_are_refused_without_delaying_others(attacked: Attacked) -> None:
    with attacked.watch() as health:
        began = time.monotonic()
        response = attacked.draw(prompt="BREAK " * 1500 + "a")
        assert time.monotonic() - began < PROMPTLY
    assert (response.status_code, response.json()["field"]) == (422, "prompt")
    assert response.json()["detail"] == (
        "Invalid prompt of 1501 chunks of up to 75 tokens: expected at most 64, the limit max_prompt_chunks; shorten "
        "it, or leave out BREAKs"
    )
    assert health.worst < PROMPTLY


def test_the_longest_prompts_do_not_delay_other_clients(attacked: Attacked) -> None:
    expected = attacked.draw().content
    longest = "a star BREAK " * 63 + "a star"
    with attacked.watch() as health, httpx.Client(base_url=attacked.url, timeout=LIMIT) as http:
        body = {"prompt": longest, "size": "64x64", "num_inference_steps": 1}
        jobs = [http.post("/v1/jobs", json={**body, "seed": seed}).json()["id"] for seed in range(4)]
        assert attacked.draw().content == expected
        for job in jobs:
            assert "event: done" in http.get(f"/v1/jobs/{job}/events").text
    assert health.worst < PROMPTLY
