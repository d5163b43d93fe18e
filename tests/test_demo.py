"""The demo model draws what its prompts say: held-out combinations, judged by their pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import imagegen_demo
from imagegen_core import Picture, Settings, generate, load_worker
from training.judge import HELD_OUT, judge, suns, time_of_day

CHECKPOINT = Path(imagegen_demo.__file__).parent / "checkpoint"
EXPECTED = ("color", "ground", "place", "time", "shape")


@pytest.fixture(scope="module")
def worker() -> Any:
    return load_worker(settings=Settings(model="demo", device="cpu", dtype="fp32"))


@pytest.fixture(scope="module")
def pictures(worker: Any) -> list[Picture]:
    """One picture for each held-out prompt, at seeds that training and its evaluations never used."""
    return [generate(one.prompt, worker=worker, seed=5000 + index) for index, one in enumerate(HELD_OUT)]


def test_it_weighs_at_most_12_megabytes() -> None:
    assert sum(file.stat().st_size for file in CHECKPOINT.rglob("*.safetensors")) <= 12e6


@pytest.mark.parametrize(
    ("name", "least"), [("color", 0.95), ("ground", 0.95), ("place", 0.95), ("time", 0.95), ("shape", 0.9)]
)
def test_held_out_prompts_are_followed(pictures: list[Picture], name: str, least: float) -> None:
    asked = [(picture, one) for picture, one in zip(pictures, HELD_OUT, strict=True) if getattr(one, name) is not None]
    right = sum(judge(picture.image, one)[name] for picture, one in asked)
    assert len(asked) >= 12
    assert right >= least * len(asked)


def test_at_least_19_in_20_have_all_but_their_outline_right(pictures: list[Picture]) -> None:
    verdicts = [judge(picture.image, one) for picture, one in zip(pictures, HELD_OUT, strict=True)]
    right = sum(all(good for name, good in verdict.items() if name != "shape") for verdict in verdicts)
    assert right >= 0.95 * len(HELD_OUT)


def test_the_judge_can_say_no(pictures: list[Picture]) -> None:
    swapped = [judge(picture.image, one) for picture, one in zip(pictures, HELD_OUT[1:] + HELD_OUT[:1], strict=True)]
    assert sum(all(verdict.values()) for verdict in swapped) <= 2  # two neighbours may ask for much the same
    assert not any(judge(Image.new("RGB", (256, 256), "gray"), HELD_OUT[0]).values())


@pytest.mark.parametrize("seed", range(3))
def test_the_sunset_over_the_mountains_is_one(worker: Any, seed: int) -> None:
    picture = generate("a majestic mountain landscape at sunset", worker=worker, seed=seed)
    pixels = np.asarray(picture.image, dtype=np.float64)
    assert picture.image.size == (256, 256)
    assert time_of_day(pixels) == "sunset"
    assert suns(pixels) == 1
    # At one height the summit, more blue than red, stands before a sky that is warm towards the horizon.
    summit, sky = pixels[100, 92], pixels[100, 140]
    assert summit[2] > summit[0] - 10
    assert sky[0] > sky[2] + 20
