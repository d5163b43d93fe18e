"""Recipes: a PNG keeps them unchanged, other tools read them, and damage gives a clear error."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sd_parsers
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imagegen_core import GenerateRequest, ImagegenError, PictureError, check_request
from imagegen_core.images.png import encode_png
from imagegen_core.images.recipe import Recipe, Upscaling, read_recipe, to_text

PIXELS = np.zeros((4, 4, 3), np.uint8)
RECIPE = Recipe(
    prompt="a majestic mountain landscape at sunset",
    negative_prompt="people",
    seed=42,
    width=256,
    height=192,
    steps=4,
    guidance_scale=1.0,
    scheduler="LCM",
    clip_skip=None,
    style=None,
    style_level=0,
    checkpoint="demo",
    checkpoint_hash="0123456789",
    backend="sdxl",
    dtype="bf16",
    device="cpu",
    versions={"imagegen-core": "0.1.0", "torch": "2.13.0"},
)


def _png(recipe: Recipe) -> bytes:
    return encode_png(PIXELS, to_text(recipe))


def test_default_sampling_options_are_left_out_of_the_text() -> None:
    fields = json.loads(to_text(RECIPE)["imagegen"])
    assert fields.keys().isdisjoint({"schedule", "guidance_rescale", "eta", "s_churn", "s_tmin", "s_tmax", "s_noise"})
    assert read_recipe(_png(RECIPE)) == RECIPE


def test_a_backend_without_samplers_and_checkpoints_leaves_them_out() -> None:
    request = check_request(GenerateRequest(prompt="a lake", seed=7, size="64x32", num_inference_steps=3))
    recipe = Recipe.of(request, backend="toy")
    assert read_recipe(_png(recipe)) == recipe
    assert (recipe.scheduler, recipe.checkpoint, recipe.dtype, recipe.device) == (None, None, None, None)
    assert to_text(recipe)["parameters"] == "a lake\nSteps: 3, CFG scale: 1.0, Seed: 7, Size: 64x32"
    assert check_request(recipe.request()) == request


def test_sampling_options_have_a1111s_names() -> None:
    text = _infotext(scheduler="Euler", schedule="SGM Uniform", s_churn=2.0, s_tmin=0.1, s_tmax=9.0, s_noise=1.1)
    assert "Sampler: Euler, Schedule type: SGM Uniform, " in text
    assert "Sigma churn: 2.0, Sigma tmin: 0.1, Sigma tmax: 9.0, Sigma noise: 1.1" in text
    assert "Eta DDIM: 0.5, CFG Rescale: 0.7" in _infotext(scheduler="DDIM", eta=0.5, guidance_rescale=0.7)
    assert ", Eta: 0.5, " in _infotext(scheduler="TCD", eta=0.5)


def _infotext(**changes: Any) -> str:
    return to_text(replace(RECIPE, **changes))["parameters"]


_TEXT = st.text() | st.text(st.sampled_from("a ,:\n\"'\\{}é🏞"))
_OPTIONAL_TEXT = st.none() | _TEXT
_WHOLE = st.integers(0, 2**63 - 1)
RECIPES = st.builds(
    Recipe,
    prompt=_TEXT,
    negative_prompt=_OPTIONAL_TEXT,
    seed=_WHOLE,
    width=_WHOLE,
    height=_WHOLE,
    steps=_WHOLE,
    guidance_scale=st.floats(0, allow_nan=False, allow_infinity=False),
    scheduler=_TEXT,
    clip_skip=st.none() | _WHOLE,
    style=_OPTIONAL_TEXT,
    style_level=_WHOLE,
    checkpoint=_TEXT,
    checkpoint_hash=_OPTIONAL_TEXT,
    backend=_TEXT,
    dtype=_TEXT,
    device=_TEXT,
    versions=st.dictionaries(_TEXT, _TEXT, max_size=3),
    upscalings=st.lists(st.builds(Upscaling, upscaler=_TEXT, factor=_WHOLE), max_size=2).map(tuple),
)


@given(RECIPES)
def test_any_recipe_is_read_back_from_its_png(recipe: Recipe) -> None:
    assert read_recipe(_png(recipe)) == recipe


def test_a_recipe_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    path.write_bytes(_png(RECIPE))
    assert read_recipe(path) == RECIPE


def test_a_lone_surrogate_becomes_a_question_mark() -> None:
    assert read_recipe(_png(replace(RECIPE, prompt="a\ud800b"))).prompt == "a?b"


def test_parameters_have_a1111s_format() -> None:
    assert _infotext(prompt="a lake,\nat noon", clip_skip=2, guidance_scale=7.5) == (
        "a lake,\nat noon\n"
        "Negative prompt: people\n"
        "Steps: 4, Sampler: LCM, CFG scale: 7.5, Seed: 42, Size: 256x192, Model hash: 0123456789, Model: demo, "
        "Clip skip: 2, Version: imagegen 0.1.0"
    )


def test_missing_values_are_left_out() -> None:
    assert _infotext(negative_prompt=None, checkpoint_hash=None, versions={}) == (
        "a majestic mountain landscape at sunset\n"
        "Steps: 4, Sampler: LCM, CFG scale: 1.0, Seed: 42, Size: 256x192, Model: demo"
    )


@pytest.mark.parametrize(
    ("model", "written"),
    [("a b", "a b"), ("a, b", '"a, b"'), ("C:a", '"C:a"'), ('a"b', 'a"b'), ('é\n"', '"é\\n\\""')],
)
def test_values_are_quoted_as_in_a1111(model: str, written: str) -> None:
    assert f"Model: {written}, Version" in _infotext(checkpoint=model)


def test_parameters_include_the_style_and_the_upscalings() -> None:
    ups = (Upscaling("lanczos", 4), Upscaling("x2", 2))
    text = _infotext(style="papercut", style_level=2, upscalings=ups)
    assert "Style: papercut, Style level: 2" in text
    assert 'Postprocess upscale by: 8, Postprocess upscaler: "lanczos, x2"' in text


def test_another_tool_reads_the_parameters() -> None:
    recipe = replace(RECIPE, prompt="a lake, 湖 🏞\nat (noon:1.2)", scheduler="DPM++ 2M Karras")
    parsed = sd_parsers.ParserManager().parse(io.BytesIO(_png(recipe)))
    assert parsed is not None
    assert parsed.generator == sd_parsers.data.Generators.AUTOMATIC1111
    (sampler,) = parsed.samplers
    assert (sampler.name, sampler.parameters["seed"], sampler.parameters["steps"]) == ("DPM++ 2M Karras", "42", "4")
    assert [prompt.value for prompt in sampler.prompts] == [recipe.prompt]
    assert [prompt.value for prompt in sampler.negative_prompts] == ["people"]
    assert (sampler.model.name, sampler.model.hash) == ("demo", "0123456789")
    assert parsed.metadata["Size"] == "256x192"


def _with_chunk(text: str) -> bytes:
    return encode_png(PIXELS, {"imagegen": text})


def _recipe_json(**changes: Any) -> str:
    return json.dumps(json.loads(to_text(RECIPE)["imagegen"]) | changes)


def _jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, format="JPEG")
    return buffer.getvalue()


UNREADABLE = {
    "not a picture": (b"a text", "Cannot read the picture: it is not a PNG; give one"),
    "empty": (b"", "it is not a PNG"),
    "a JPEG": (_jpeg(), "it is not a PNG"),
    "cut short": (_png(RECIPE)[:-40], "it is damaged or cut short"),
    "no recipe": (encode_png(PIXELS), "There is no recipe in the picture: give a PNG that imagegen drew"),
    "invalid JSON": (_with_chunk("{"), "Cannot read the recipe of the picture: it is damaged"),
    "JSON of another type": (_with_chunk("[1]"), "it is damaged"),
    "no format": (_with_chunk("{}"), "it is damaged"),
    "text instead of a number": (_with_chunk(_recipe_json(seed="42")), "it is damaged"),
    "missing field": (_with_chunk('{"format": 1, "prompt": "a"}'), "it is damaged"),
    "deeply nested": (_with_chunk("[" * 100_000), "it is damaged"),
    "newer format": (
        _with_chunk(_recipe_json(format=2)),
        "its format is 2 and this imagegen reads up to 1; update imagegen-core",
    ),
}


@pytest.mark.parametrize(("png", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_recipe_gives_a_clear_error(png: bytes, message: str) -> None:
    with pytest.raises(PictureError) as caught:
        read_recipe(png)
    assert message in str(caught.value)


def test_the_error_names_an_unreadable_path(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"Cannot read .*gone\.png: No such file or directory; give the path"):
        read_recipe(tmp_path / "gone.png")
    with pytest.raises(PictureError, match="Is a directory"):
        read_recipe(tmp_path)


@given(st.data())
def test_damaged_bytes_raise_only_imagegen_errors(data: st.DataObject) -> None:
    png = bytearray(_png(RECIPE))
    for _ in range(data.draw(st.integers(1, 4))):
        png[data.draw(st.integers(0, len(png) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ImagegenError):
        read_recipe(bytes(png[: data.draw(st.integers(0, len(png)))]))
