"""Prompts that once froze the process, or kept others waiting."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import httpx2 as httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some

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
GROWTH = 8  # of the text; a quadratic parser takes 64 times as long
_AT_MOST = 24


class Letters:
    """A tokenizer whose tokens are letters; embeddings are looked for at each."""

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
    """The least time of this thread that reading `text` takes."""
    taken = []
    for _ in range(times):
        began = time.thread_time()
        with contextlib.suppress(InvalidRequestError):
            parser(text)
        taken.append(time.thread_time() - began)
    return min(taken)


@pytest.mark.parametrize("parser", [name for name in PARSERS if name != "chunks"])
@pytest.mark.parametrize("shape", SHAPES[:12])
def test_a_megabyte_of_one_character_is_read_at_once(parser: str, shape: str) -> None:
    assert _seconds(PARSERS[parser], shape * MEGABYTE, times=2) < PROMPTLY


@pytest.mark.parametrize("parser", PARSERS)
@settings(max_examples=25, deadline=None)
@given(
    shape=some.lists(some.sampled_from([*SHAPES, "BREAK ", "AND", "\n", "b)", "lora:", "0.5]"]), max_size=4).map(
        "".join
    )
)
@example(shape=":1")
@example(shape="(")
def test_a_parsers_time_grows_with_the_text(parser: str, shape: str) -> None:
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
def test_a_prompt_of_too_many_characters_is_refused_and_nobody_waits(
    attacked: Attacked, route: str, field: str, prompt: str
) -> None:
    with attacked.watch() as health:
        body = {"prompt": "a", **ROUTES[route], field: prompt}
        answer = httpx.post(f"{attacked.url}{route}", json=body, timeout=LIMIT)
    assert answer.status_code in (400, 422)
    assert f"Invalid {field} of {len(prompt)} characters: this server takes up to 10000" in answer.text
    assert health.worst < PROMPTLY


def test_many_breaks_are_refused_and_nobody_waits(attacked: Attacked) -> None:
    with attacked.watch() as health:
        began = time.monotonic()
        answer = attacked.draw(prompt="BREAK " * 1500 + "a")
        assert time.monotonic() - began < PROMPTLY
    assert (answer.status_code, answer.json()["field"]) == (422, "prompt")
    assert answer.json()["detail"] == (
        "Invalid prompt of 1501 chunks of up to 75 tokens: expected at most 64, the limit max_prompt_chunks; shorten "
        "it, or leave out BREAKs"
    )
    assert health.worst < PROMPTLY


def test_the_longest_prompts_are_drawn_while_another_client_is_served(attacked: Attacked) -> None:
    expected = attacked.draw().content
    longest = "a star BREAK " * 63 + "a star"
    with attacked.watch() as health, httpx.Client(base_url=attacked.url, timeout=LIMIT) as http:
        body = {"prompt": longest, "size": "64x64", "num_inference_steps": 1}
        jobs = [http.post("/v1/jobs", json={**body, "seed": seed}).json()["id"] for seed in range(4)]
        assert attacked.draw().content == expected
        for job in jobs:
            assert "event: done" in http.get(f"/v1/jobs/{job}/events").text
    assert health.worst < PROMPTLY
