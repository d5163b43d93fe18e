"""Judge from the pixels alone whether a picture shows its prompt (numpy and pillow).

>>> expected = HELD_OUT[0]
>>> judge(image, expected)
{'ground': True, 'color': True, 'place': True, 'shape': True}
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import numpy.typing as npt
from PIL import Image

from training.scenes.canvas import SKY, SUN, tinted
from training.scenes.scene import COLORS, SHAPES, SUBJECTS, TIMES, Shape, Subject
from training.scenes.shapes import silhouette

Pixels = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_DIFFERS = 90  # summed over RGB; a pixel that differs more from the ground belongs to the shape
_LEAST_PIXELS = 300
_PLACES = ("middle", "left", "right")
_SUBJECT_BOX = (slice(60, 185), slice(64, 180))  # rows and columns of a house, boat, flower or tree
_SURROUNDINGS = ((86, 165, 80), (28, 110, 175), (125, 65, 48), (120, 72, 44), (110, 70, 45), (36, 120, 52))
_OTHERS = ((62, 42, 36), (255, 232, 145), (205, 230, 245))  # door, and windows by night and by day


@dataclass(frozen=True, slots=True)
class HeldOutPrompt:
    """A prompt with a combination outside of training, and the expected properties of its picture.

    A property of None is not judged.
    """

    prompt: str
    color: str | None = None
    ground: str | None = None
    place: str | None = None
    shape: str | None = None
    time: str | None = None


def judge(image: Image.Image, expected: HeldOutPrompt) -> dict[str, bool]:
    """Return whether `image` shows each expected property, by name; other properties are left out."""
    pixels = np.asarray(image.convert("RGB").resize((256, 256)), dtype=np.float64)
    if expected.ground is not None:
        seen = read_shape(pixels)
    else:
        seen = {"time": time_of_day(pixels)}
        if expected.color is not None and expected.time is not None:
            seen["color"] = subject_color(pixels, expected.time)
    names = ("ground", "color", "place", "shape", "time")
    return {name: seen.get(name) == value for name in names if (value := getattr(expected, name)) is not None}


def read_shape(pixels: Pixels) -> dict[str, str | None]:
    """Return the ground from the border, and the colour, place and shape from the pixels that differ from it."""
    border = np.concatenate([pixels[:8], pixels[-8:]]).reshape(-1, 3)
    ground = np.median(border, axis=0)
    mask = np.abs(pixels - ground).sum(-1) > _DIFFERS
    if mask.sum() < _LEAST_PIXELS:
        return {"ground": nearest_color(ground)}
    column = float(np.nonzero(mask)[1].mean()) / pixels.shape[1]
    place = "left" if column < 0.38 else "right" if column > 0.62 else "middle"
    color = nearest_color(np.median(pixels[mask], axis=0))
    return {"ground": nearest_color(ground), "color": color, "place": place, "shape": nearest_shape(mask)}


def nearest_color(rgb: Pixels) -> str:
    """Return the named colour closest to `rgb`."""
    return min(COLORS, key=lambda name: float(np.square(np.array(COLORS[name]) - rgb).sum()))


def nearest_shape(mask: Mask) -> str:
    """Return the shape whose silhouette, scaled to its bounding box, overlaps `mask` best (IoU)."""
    boxed, proportion = _boxed(mask)

    def score(shape: str) -> float:
        template, expected = _template(shape)
        overlap = (boxed & template).sum() / (boxed | template).sum()
        return float(overlap) - 0.5 * abs(float(np.log(proportion / expected)))

    return max(SHAPES, key=score)


def time_of_day(pixels: Pixels) -> str:
    """Return the time whose sky is closest to the median colour of the top rows, away from sun and moon."""
    top = np.median(pixels[4:28].reshape(-1, 3), axis=0)
    return min(TIMES, key=lambda time: float(np.square(_sky_at(time, 16 / 256) - top).sum()))


def suns(pixels: Pixels) -> int:
    """Count the bright discs in the upper half."""
    upper = pixels[:128]
    bright = upper.mean(-1) > np.median(upper.mean(-1), axis=1, keepdims=True) + 45
    return sum(1 for size in _part_sizes(bright[::2, ::2]) if size >= 25)


def _part_sizes(mask: Mask) -> list[int]:
    """Return the sizes of the 4-connected parts."""
    left, sizes = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}, []
    while left:
        stack, size = [left.pop()], 0
        while stack:
            y, x = stack.pop()
            size += 1
            for neighbour in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if neighbour in left:
                    left.remove(neighbour)
                    stack.append(neighbour)
        sizes.append(size)
    return sizes


def _sky_at(time: str, share: float) -> Pixels:
    top, bottom = (np.array(color, dtype=np.float64) for color in SKY[time])
    return top * (1 - share) + bottom * share


def subject_color(pixels: Pixels, time: str) -> str:
    """Return the named colour, in the light of `time`, that is closest to most pixels around the middle.

    Each pixel votes for a named colour or for a colour of the surroundings: sky, grass, water, wood.
    """
    box = pixels[_SUBJECT_BOX].reshape(-1, 3)
    named = [tinted(color, time, 0.3) for color in COLORS.values()]
    around = [tinted(color, time) for color in _SURROUNDINGS] + [SUN[time], *_OTHERS]
    skies = [_sky_at(time, share) for share in np.linspace(0.1, 0.75, 8)]
    palette = np.array([*named, *around, *skies], dtype=np.float64)
    nearest = np.square(box[:, None] - palette[None]).sum(-1).argmin(1)
    votes = np.bincount(nearest, minlength=len(palette))[: len(named)]
    return list(COLORS)[int(votes.argmax())]


def _boxed(mask: Mask) -> tuple[Mask, float]:
    """Return the mask's bounding box at 48x48, and its width divided by its height."""
    rows, columns = np.nonzero(mask)
    box = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    scaled = Image.fromarray((box * 255).astype(np.uint8)).resize((48, 48), Image.Resampling.BOX)
    return np.asarray(scaled) > 127, box.shape[1] / box.shape[0]


@cache
def _template(shape: str) -> tuple[Mask, float]:
    return _boxed(np.asarray(silhouette(shape, 256, 256, 130)) > 127)


def _held_out_shapes(count: int) -> list[HeldOutPrompt]:
    """Return prompts with held-out combinations of colour, shape and ground, and with alternating places."""
    every = [Shape(c, s, g) for c, s, g in product(COLORS, SHAPES, COLORS) if c != g and Shape(c, s, g).is_held_out]
    chosen = random.Random(11).sample(every, count)
    prompts = []
    for index, scene in enumerate(chosen):
        place = _PLACES[index % 3]
        where = "" if place == "middle" else f" on the {place}"
        text = f"{_a(scene.color)} {scene.shape} on {_a(scene.ground)} background{where}"
        prompts.append(HeldOutPrompt(text, scene.color, scene.ground, place, scene.shape))
    return prompts


def _held_out_subjects(count: int) -> list[HeldOutPrompt]:
    """Return prompts with held-out combinations of subject, colour and time of day."""
    every = [Subject(s, c, t) for s, c, t in product(SUBJECTS, COLORS, TIMES) if Subject(s, c, t).is_held_out]
    phrases = {
        "house": "{} house on a hill",
        "boat": "a boat with {} sail",
        "flower": "{} flower in a meadow",
        "tree": "{} tree",
    }
    prompts = []
    for scene in random.Random(12).sample(every, count):
        text = f"{phrases[scene.subject].format(_a(scene.color))} at {scene.time}"
        prompts.append(HeldOutPrompt(text, scene.color, time=scene.time))
    return prompts


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


HELD_OUT: list[HeldOutPrompt] = [*_held_out_shapes(48), *_held_out_subjects(12)]
"""Prompts of combinations that `scene.is_held_out` keeps out of training."""
