"""A1111's extra seeds: the same pictures as this server's variations."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from imagegen_core import read_recipe
from tests.server.a1111.conftest import Poster, pixels_of


def recipes(answer: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """Return the seed and the variation of each picture."""
    read = [read_recipe(base64.b64decode(text)) for text in answer["images"]]
    return [(recipe.seed, dict(recipe.variation or {})) for recipe in read]


def test_with_a_strength_the_extra_seeds_count_up(txt2img: Poster) -> None:
    answer = txt2img.answer(subseed=3, subseed_strength=0.25, batch_size=2, n_iter=2, steps=1)
    assert recipes(answer) == [(7, {"seed": 3 + number, "strength": 0.25}) for number in range(4)]
    info = json.loads(answer["info"])
    assert (info["all_seeds"], info["all_subseeds"]) == ([7] * 4, [3, 4, 5, 6])
    assert (info["seed"], info["subseed"], info["subseed_strength"]) == (7, 3, 0.25)
    assert "Variation seed: 3, Variation seed strength: 0.25" in info["infotexts"][0]


def test_without_a_strength_the_seeds_count_up(txt2img: Poster) -> None:
    answer = txt2img.answer(subseed=3, subseed_strength=0, batch_size=2, steps=1)
    assert recipes(answer) == [(7, {}), (8, {})]


def test_a_random_extra_seed_is_reported(txt2img: Poster) -> None:
    answer = txt2img.answer(subseed=-1, subseed_strength=0.5, steps=1)
    subseed = json.loads(answer["info"])["subseed"]
    assert 0 <= subseed < 2**32
    assert (txt2img.draw(subseed=subseed, subseed_strength=0.5, steps=1) == pixels_of(answer["images"][0])).all()


def test_a_random_seed_is_one_for_all_pictures(txt2img: Poster) -> None:
    info = json.loads(txt2img.answer(seed=-1, subseed=3, subseed_strength=0.5, batch_size=2, steps=1)["info"])
    assert len({*info["all_seeds"]}) == 1


@pytest.mark.parametrize(
    ("fields", "variation"),
    [
        ({"seed_resize_from_w": 32, "seed_resize_from_h": 40}, {"resize_from": "32x40"}),
        ({"seed_resize_from_w": 37, "seed_resize_from_h": 40.5}, {"resize_from": "32x40"}),
        ({"seed_resize_from_w": 32, "seed_resize_from_h": 0}, {}),
        ({"seed_resize_from_w": -1, "seed_resize_from_h": -1}, {}),
        ({"seed_resize_from_w": 0, "seed_resize_from_h": None}, {}),
    ],
)
def test_the_noise_has_the_middle_of_another_size(
    txt2img: Poster, fields: dict[str, Any], variation: dict[str, Any]
) -> None:
    ((_, given),) = recipes(txt2img.answer(steps=1, **fields))
    assert given == variation


def test_pictures_equal_variations(txt2img: Poster) -> None:
    drawn = txt2img.answer(subseed=3, subseed_strength=0.25)["images"][0]
    body = {"prompt": "a lake at dawn", "size": "64x48", "num_inference_steps": 4, "scheduler": "Euler", "seed": 7}
    variation = {"schedule": "Automatic", "variation": {"seed": 3, "strength": 0.25}}
    plain = txt2img.server.http.post("/generate", json=body | variation).content
    assert (pixels_of(drawn) == pixels_of(base64.b64encode(plain).decode())).all()


def test_images_vary_too(img2img: Poster) -> None:
    assert recipes(img2img.answer(subseed=3, subseed_strength=0.25)) == [(7, {"seed": 3, "strength": 0.25})]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"subseed_strength": 1.5}, "Invalid variation.strength 1.5: expected a number from 0 to 1"),
        ({"subseed": -2, "subseed_strength": 0.5}, "Invalid variation.seed -2"),
        ({"seed_resize_from_w": 9000, "seed_resize_from_h": 64}, "Invalid variation.resize_from '9000x64'"),
    ],
)
def test_wrong_values_are_refused(txt2img: Poster, fields: dict[str, Any], sentence: str) -> None:
    assert sentence in txt2img.refusal(**fields)
