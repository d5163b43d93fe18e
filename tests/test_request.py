"""Valid requests, and the messages for invalid requests."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen_core import GenerateRequest, ImagegenError, InvalidRequestError, ResolvedRequest, Size, StyleLoraRequest
from imagegen_core.request import check_request, with_counted_seeds

sides = st.integers(1, 1024).map(lambda eighth: 8 * eighth)


@given(sides, sides)
def test_a_size_is_parsed_and_written_back(width: int, height: int) -> None:
    assert Size.parse(f"{width}x{height}") == Size(width, height)
    assert str(Size.parse(f" {width} X {height}")) == f"{width}x{height}"


@given(st.text() | st.integers() | st.none() | st.floats() | st.binary())
def test_any_other_size_is_refused_in_one_sentence(text: Any) -> None:
    try:
        size = Size.parse(text)
    except InvalidRequestError as error:
        assert str(error).startswith("Invalid size ")
        assert "\n" not in str(error)
    else:
        assert (size.width % 8, size.height % 8) == (0, 0)


def test_a_wrong_size_raises_the_error_of_the_contract() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Size.parse("12by7")
    assert str(caught.value) == (
        "Invalid size '12by7': expected WIDTHxHEIGHT in pixels, multiples of 8, such as 1024x1024"
    )
    assert isinstance(caught.value, ImagegenError)
    assert isinstance(caught.value, RuntimeError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "size", ["", "0x8", "8x0", "513x512", "-8x8", "８x８", "8x8x8", "1e3x8", "8192x8200", "99999999x8"]
)
def test_sizes_that_cannot_be_drawn_are_refused(size: str) -> None:
    with pytest.raises(InvalidRequestError, match="Invalid size"):
        Size.parse(size)


def test_a_missing_size_is_the_native_size() -> None:
    assert ResolvedRequest.of(GenerateRequest(prompt="a"), native_size="512x512").size == Size(512, 512)


def test_an_explicit_size_is_kept_even_if_it_is_the_default() -> None:
    request = GenerateRequest(prompt="a", size="1024x1024")
    assert ResolvedRequest.of(request, native_size="512x512").size == Size(1024, 1024)


@given(
    st.builds(
        GenerateRequest,
        prompt=st.text(),
        size=st.builds("{}x{}".format, sides, sides),
        num_inference_steps=st.integers(1, 1000),
        guidance_scale=st.floats(0, 30),
        seed=st.integers(0, 2**63 - 1),
        negative_prompt=st.none() | st.text(),
    )
)
def test_a_valid_request_is_unchanged(request_: GenerateRequest) -> None:
    resolved = ResolvedRequest.of(request_, native_size="512x512")
    assert (resolved.prompt, resolved.negative_prompt) == (request_.prompt, request_.negative_prompt)
    assert (str(resolved.size), resolved.steps) == (request_.size, request_.num_inference_steps)
    assert (resolved.guidance_scale, resolved.seed) == (request_.guidance_scale, request_.seed)


def test_a_missing_seed_is_random() -> None:
    seeds = {ResolvedRequest.of(GenerateRequest(prompt="a"), "8x8").seed for _ in range(20)}
    assert len(seeds) > 15
    assert all(0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", None),
        ("prompt", 7),
        ("num_inference_steps", 0),
        ("num_inference_steps", -4),
        ("num_inference_steps", 2.5),
        ("num_inference_steps", True),
        ("guidance_scale", -0.1),
        ("guidance_scale", float("nan")),
        ("guidance_scale", float("inf")),
        ("guidance_scale", "7.5"),
        ("seed", -1),
        ("seed", 2**63),
        ("seed", "abc"),
        ("negative_prompt", 3),
    ],
)
def test_a_wrong_value_is_refused_with_the_name_of_its_field(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError, match=f"^Invalid {field} ") as caught:
        ResolvedRequest.of(SimpleNamespace(**{"prompt": "a", field: value}), "8x8")
    assert "expected" in str(caught.value)


def test_a_long_wrong_value_is_shortened_in_the_message() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Size.parse("x" * 100_000)
    assert len(str(caught.value)) < 200


@dataclass
class OlderRequest:
    """A request of existing callers: not our class, and without the newer fields."""

    prompt: str
    size: str = "1024x1024"
    num_inference_steps: int = 4
    guidance_scale: float = 1.0
    seed: int | None = None
    style_lora: Any = None


def test_any_object_with_the_attributes_is_a_request() -> None:
    resolved = ResolvedRequest.of(OlderRequest("a cat", size="64x32", seed=3), native_size="512x512")
    assert resolved == ResolvedRequest("a cat", None, Size(64, 32), 4, 1.0, 3, None, 0)


def test_numpy_numbers_are_numbers() -> None:
    np = pytest.importorskip("numpy", reason="numpy comes with the diffusers extra")
    resolved = ResolvedRequest.of(OlderRequest("a", seed=np.int64(3), guidance_scale=np.float32(2)), "8x8")
    assert (resolved.seed, resolved.guidance_scale) == (3, 2.0)


@pytest.mark.parametrize(
    ("style", "level", "expected"),
    [
        (None, 0, (None, 0)),
        ("papercut", 0, (None, 0)),
        (None, 2, (None, 0)),
        ("papercut", 2, ("papercut", 2)),
    ],
)
def test_a_style_needs_a_name_and_a_level(style: Any, level: int, expected: Any) -> None:
    request = GenerateRequest(prompt="a", style_lora=StyleLoraRequest(style=style, level=level))
    resolved = ResolvedRequest.of(request, "8x8")
    assert (resolved.style, resolved.style_level) == expected


def test_a_field_that_nobody_declares_is_refused() -> None:
    for wrong in ({"sampler": "x"}, {"style_lora": {"stile": "x"}}):
        with pytest.raises(ValueError, match="Extra inputs are not permitted"):
            GenerateRequest.model_validate({"prompt": "a", **wrong})


@given(st.integers(0, 2**63 - 1), st.integers(1, 20))
def test_seeds_count_up_and_restart_after_the_largest(seed: int, count: int) -> None:
    seeds = [request.seed for request in with_counted_seeds(GenerateRequest(prompt="a", seed=seed), count)]
    assert seeds == [(seed + number) % 2**63 for number in range(count)]
    assert all(check_request(GenerateRequest(prompt="a", seed=counted)).seed == counted for counted in seeds)
