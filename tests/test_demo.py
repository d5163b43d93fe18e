"""The demo model follows its prompts, its style shows, and its upscaler is better than interpolation."""

from __future__ import annotations

import random
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import imagegen_demo
from imagegen_core import Picture, Registry, Settings, generate, load_worker, upscale
from training.judge import HELD_OUT, judge, suns, time_of_day
from training.scenes import Scene, Shape, Subject, render
from training.scenes.scene import COLORS, SHAPES, SUBJECTS, TIMES
from training.scenes.storybook import storybook

CHECKPOINT = Path(imagegen_demo.__file__).parent / "checkpoint"


@pytest.fixture(scope="module")
def worker() -> Any:
    return load_worker(settings=Settings(model="demo", device="cpu", dtype="fp32"))


@pytest.fixture(scope="module")
def pictures(worker: Any) -> list[Picture]:
    """One picture for each held-out prompt, at seeds that training and its evaluations never used."""
    return [generate(expected.prompt, worker=worker, seed=5000 + index) for index, expected in enumerate(HELD_OUT)]


def test_the_checkpoint_weighs_at_most_12_megabytes() -> None:
    assert sum(file.stat().st_size for file in CHECKPOINT.rglob("*.safetensors")) <= 12e6


@pytest.mark.parametrize(
    ("name", "minimum"), [("color", 0.95), ("ground", 0.95), ("place", 0.95), ("time", 0.95), ("shape", 0.9)]
)
def test_held_out_prompts_are_followed(pictures: list[Picture], name: str, minimum: float) -> None:
    cases = [
        (picture, expected)
        for picture, expected in zip(pictures, HELD_OUT, strict=True)
        if getattr(expected, name) is not None
    ]
    correct = sum(judge(picture.image, expected)[name] for picture, expected in cases)
    assert len(cases) >= 12
    assert correct >= minimum * len(cases)


def test_at_least_19_in_20_pictures_are_right_except_for_the_outline(pictures: list[Picture]) -> None:
    verdicts = [judge(picture.image, expected) for picture, expected in zip(pictures, HELD_OUT, strict=True)]
    correct = sum(all(good for name, good in verdict.items() if name != "shape") for verdict in verdicts)
    assert correct >= 0.95 * len(HELD_OUT)


def test_the_judge_rejects_wrong_pictures(pictures: list[Picture]) -> None:
    swapped = [
        judge(picture.image, expected) for picture, expected in zip(pictures, HELD_OUT[1:] + HELD_OUT[:1], strict=True)
    ]
    assert (
        sum(all(verdict.values()) for verdict in swapped) <= 2
    )  # two neighbouring prompts may describe similar pictures
    assert not any(judge(Image.new("RGB", (256, 256), "gray"), HELD_OUT[0]).values())


@pytest.mark.parametrize("seed", range(3))
def test_a_mountain_sunset_shows_mountains_and_one_setting_sun(worker: Any, seed: int) -> None:
    picture = generate("a majestic mountain landscape at sunset", worker=worker, seed=seed)
    pixels = np.asarray(picture.image, dtype=np.float64)
    assert picture.image.size == (256, 256)
    assert time_of_day(pixels) == "sunset"
    assert suns(pixels) == 1
    # At the same height, the summit is more blue than red, and the sky is warm towards the horizon.
    summit, sky = pixels[100, 92], pixels[100, 140]
    assert summit[2] > summit[0] - 10
    assert sky[0] > sky[2] + 20


def test_each_style_level_is_stronger_and_the_last_resembles_its_look(worker: Any) -> None:
    for prompt in ("a red circle on a blue background", "a boat with a yellow sail at noon", "mountains at sunset"):
        drawn = [_pixels(generate(prompt, worker=worker, seed=6, style=f"storybook:{level}")) for level in range(4)]
        steps = [np.abs(pixels - drawn[0]).mean() for pixels in drawn]
        assert steps[1] > 4
        assert steps[2] > steps[1] * 1.2
        assert steps[3] > steps[2] * 1.2
        target = storybook(drawn[0].astype(np.uint8)).astype(np.float64)
        assert np.abs(drawn[3] - target).mean() < 0.5 * np.abs(drawn[0] - target).mean()


def test_the_style_and_the_upscaler_weigh_at_most_a_megabyte() -> None:
    for name in ("storybook", "upscaler"):
        assert (CHECKPOINT.parent / f"{name}.safetensors").stat().st_size <= 1e6


def test_the_upscaler_is_better_than_bicubic_on_held_out_scenes() -> None:
    network = Registry.discover().upscaler("demo").load(Settings(device="cpu"))
    gains = []
    for seed, scene in enumerate(_held_out_scenes(24)):
        large = render(scene, random.Random(seed))
        halved = Image.fromarray(large).reduce(2)
        bicubic = halved.resize((large.shape[1], large.shape[0]), Image.Resampling.BICUBIC)
        gains.append(_psnr(upscale(halved, network), large) - _psnr(bicubic, large))
    assert np.mean(gains) > 2
    assert min(gains) > 0


def _held_out_scenes(count: int) -> list[Scene]:
    shapes = [Shape(c, s, g) for c, s, g in product(COLORS, SHAPES, COLORS) if c != g]
    subjects = [Subject(s, c, t) for s, c, t in product(SUBJECTS, COLORS, TIMES)]
    return random.Random(3).sample([scene for scene in (*shapes, *subjects) if scene.is_held_out], count)


def _psnr(image: Image.Image, reference: npt.NDArray[np.uint8]) -> float:
    """Return the PSNR in dB."""
    error = np.square(np.asarray(image, dtype=np.float64) - reference).mean()
    return float(10 * np.log10(255**2 / error))


def _pixels(picture: Picture) -> npt.NDArray[np.float64]:
    return np.asarray(picture.image, dtype=np.float64)
