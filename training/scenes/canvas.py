"""Drawing at twice the size, for smooth edges after halving, and the light of the four times of day."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

SIDE = 512
COLUMNS = np.arange(SIDE)

Color = tuple[int, ...]
Line = npt.NDArray[np.float64]

SKY: dict[str, tuple[Color, Color]] = {
    "sunset": ((70, 50, 125), (252, 145, 70)),
    "noon": ((65, 140, 228), (192, 224, 247)),
    "night": ((8, 10, 36), (38, 48, 96)),
    "dawn": ((130, 155, 215), (252, 205, 190)),
}
SUN: dict[str, Color] = {
    "sunset": (255, 215, 115),
    "noon": (255, 250, 205),
    "night": (238, 238, 222),
    "dawn": (255, 235, 180),
}
# The colour of the light, and its share in the colour of things.
_TINT: dict[str, tuple[Color, float]] = {
    "noon": ((255, 255, 255), 0.0),
    "sunset": ((95, 45, 85), 0.42),
    "night": ((10, 14, 40), 0.74),
    "dawn": ((175, 150, 190), 0.34),
}
_SUN_HEIGHT = {"noon": 0.18, "night": 0.2}
_SUN_ABOVE_HORIZON = {"sunset": 0.08, "dawn": 0.14}
_SUN_RADIUS = {"noon": 0.06, "night": 0.06, "sunset": 0.085, "dawn": 0.07}
SUN_COLUMN = 0.7


def scattered(count: int, seed: int) -> npt.NDArray[np.float64]:
    """Return `count` fixed triples in [0, 1), so that stars, waves and windows are always in the same places."""
    return np.random.RandomState(seed).rand(count, 3)


def mix(color: Color, other: Color, share: float) -> Color:
    """Return `color` with a `share` of `other`."""
    return tuple(int(a * (1 - share) + b * share) for a, b in zip(color, other, strict=True))


def tinted(color: Color, time: str, strength: float = 1.0) -> Color:
    """Return `color` in the light of the time of day."""
    light, share = _TINT[time]
    return mix(color, light, share * strength)


def near(rng: random.Random, value: float, by: float) -> float:
    """Return a value near `value`, so that the seed varies only details that the caption leaves open."""
    return rng.uniform(value - by, value + by)


def gradient(top: Color, bottom: Color) -> Image.Image:
    """Return a picture that runs from one colour to another."""
    share = np.linspace(0, 1, SIDE)[:, None, None]
    rows = np.array(top) * (1 - share) + np.array(bottom) * share
    return Image.fromarray(np.ascontiguousarray(rows.repeat(SIDE, 1).astype(np.uint8)))


def fill_below(draw: ImageDraw.ImageDraw, line: Line, color: Color) -> None:
    """Fill the area below a line of heights, one per column."""
    top = list(zip(COLUMNS[::4].tolist(), line[::4].tolist(), strict=True))
    draw.polygon([(0, SIDE), *top, (SIDE, float(line[-1])), (SIDE, SIDE)], fill=color)


def disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, color: Color) -> None:
    """Draw a filled circle; lengths in pixels."""
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=color)


def polygon_points(
    corners: int, radius: float, center: tuple[float, float], inner: float | None = None, turn: float = 0.0
) -> Sequence[tuple[float, float]]:
    """Return the corners of a regular polygon, or of a star with inner corners at `inner` of the radius."""
    count = corners * (2 if inner else 1)
    points = []
    for index in range(count):
        reach = radius * (inner if inner and index % 2 else 1)
        angle = turn + 2 * math.pi * index / count
        points.append((center[0] + reach * math.sin(angle), center[1] - reach * math.cos(angle)))
    return points


def sky(time: str, horizon: float) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Return a sky with its sun or moon, always in the same place, and stars at night.

    Args:
        time: The time of day.
        horizon: The height where the land begins, as a share of the picture's.
    """
    image = gradient(*SKY[time])
    draw = ImageDraw.Draw(image)
    if time == "night":
        for x, y, size in scattered(26, seed=7):
            disc(draw, x * SIDE, y * horizon * SIDE, 1.5 + 2 * size, (225, 228, 250))
    height = _SUN_HEIGHT[time] if time in _SUN_HEIGHT else horizon - _SUN_ABOVE_HORIZON[time]
    disc(draw, SUN_COLUMN * SIDE, height * SIDE, _SUN_RADIUS[time] * SIDE, SUN[time])
    return image, draw


def waves(draw: ImageDraw.ImageDraw, water: Color, top: float, step: float, count: int) -> None:
    """Draw short light strokes on the water, from `top` down in steps of `step`, all in pixels."""
    for index, (x, _, _) in enumerate(scattered(count, seed=9)):
        y = top + index * step
        draw.rectangle([x * 0.86 * SIDE, y, (x * 0.86 + 0.12) * SIDE, y + 5], fill=mix(water, (255, 255, 255), 0.35))
