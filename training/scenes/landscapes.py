"""Landscapes: one composition per kind, in four lights, with slightly varied ridges and dunes."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image, ImageDraw

from training.scenes.canvas import (
    COLUMNS,
    SIDE,
    SKY,
    SUN,
    SUN_COLUMN,
    Color,
    Line,
    fill_below,
    mix,
    near,
    scattered,
    sky,
    tinted,
    waves,
)
from training.scenes.scene import Landscape

_SHARE = COLUMNS / SIDE


def draw_landscape(scene: Landscape, rng: random.Random) -> Image.Image:
    """Draw the landscape."""
    painters = {
        "mountain": _mountains,
        "desert": _desert,
        "sea": _sea,
        "forest": _forest,
        "hills": _hills,
        "city": _city,
    }
    return painters[scene.kind](scene, rng)


def _mountains(scene: Landscape, rng: random.Random) -> Image.Image:
    image, draw = sky(scene.time, horizon=0.5)
    far = tinted((112, 132, 165), scene.time)
    summit = near(rng, 0.36, 0.02)
    ridge = _ridge(0.6, [(summit, near(rng, 0.3, 0.015), 0.34), (-0.06, 0.2, 0.3), (0.78, near(rng, 0.16, 0.015), 0.3)])
    fill_below(draw, ridge, far)
    if scene.extra == "snow":
        _snow(draw, ridge, tinted((248, 250, 255), scene.time, 0.5))
    fill_below(draw, _ridge(0.78, [(0.0, 0.13, 0.5), (1.0, 0.13, 0.5)]), tinted((62, 100, 78), scene.time))
    if scene.extra == "lake":
        water = mix(SKY[scene.time][1], (30, 80, 140), 0.35)
        draw.rectangle([0, 0.8 * SIDE, SIDE, SIDE], fill=water)
        waves(draw, water, 0.8 * SIDE + 14, 14, 6)
    if scene.extra == "trees":
        for index, (x, y, height) in enumerate(scattered(7, seed=4)):
            at = (0.07 + index * 0.145 + 0.03 * x, 0.93 + 0.05 * y)
            _pine(draw, at, 0.2 + 0.08 * height, tinted((28, 92, 58), scene.time))
    return image


def _desert(scene: Landscape, rng: random.Random) -> Image.Image:
    image, draw = sky(scene.time, horizon=0.58)
    phase = rng.uniform(-0.3, 0.3)
    dunes = ((0.62, (235, 200, 130), 1.5), (0.76, (226, 180, 105), 3.7), (0.88, (208, 158, 85), 5.6))
    for height, color, start in dunes:
        fill_below(draw, (height + 0.05 * np.sin(_SHARE * 5 + start + phase)) * SIDE, tinted(color, scene.time))
    _cactus(draw, 0.3 * SIDE, 0.86 * SIDE, 0.24 * SIDE, tinted((50, 130, 70), scene.time))
    return image


def _sea(scene: Landscape, rng: random.Random) -> Image.Image:
    horizon = near(rng, 0.55, 0.01)
    image, draw = sky(scene.time, horizon)
    top = horizon * SIDE
    water = tinted((28, 110, 175), scene.time)
    draw.rectangle([0, top, SIDE, SIDE], fill=water)
    if scene.time != "noon":
        near_x, far_x = ((SUN_COLUMN - width, SUN_COLUMN + width) for width in (0.1, 0.04))
        path = [
            (far_x[0] * SIDE, top),
            (far_x[1] * SIDE, top),
            (near_x[1] * SIDE, SIDE),
            (near_x[0] * SIDE, SIDE),
        ]
        draw.polygon(path, fill=mix(water, SUN[scene.time], 0.45))
    waves(draw, water, top + 20, 24, 9)
    return image


def _forest(scene: Landscape, rng: random.Random) -> Image.Image:
    image, draw = sky(scene.time, horizon=0.4)
    fill_below(draw, (0.66 + 0.03 * np.sin(_SHARE * 6)) * SIDE, tinted((80, 150, 80), scene.time))
    rows = ((0.7, 0.34, (60, 135, 85)), (0.84, 0.42, (36, 110, 66)), (0.99, 0.46, (20, 82, 48)))
    for row, (ground, height, color) in enumerate(rows):
        shift = rng.uniform(-0.01, 0.01)
        for index, (x, tall, _) in enumerate(scattered(6, seed=20 + row)):
            at = (-0.02 + index * 0.21 + 0.04 * x + shift, ground)
            _pine(draw, at, height * (0.85 + 0.3 * tall), tinted(color, scene.time))
    return image


def _hills(scene: Landscape, rng: random.Random) -> Image.Image:
    image, draw = sky(scene.time, horizon=0.52)
    phase = rng.uniform(-0.3, 0.3)
    rows = (
        (0.6, 0.05, (120, 185, 100), 1.5),
        (0.74, 0.06, (92, 165, 78), 3.5),
        (0.88, 0.04, (66, 140, 60), 7.0),
    )
    for height, swing, color, start in rows:
        fill_below(draw, (height + swing * np.sin(_SHARE * 5 + start + phase)) * SIDE, tinted(color, scene.time))
    return image


def _city(scene: Landscape, rng: random.Random) -> Image.Image:
    image, draw = sky(scene.time, horizon=0.55)
    lit = scene.time in ("night", "sunset")
    window = (255, 228, 140) if lit else tinted((190, 215, 235), scene.time)
    shift = rng.uniform(-0.01, 0.01)
    for index, (tall, _, _) in enumerate(scattered(7, seed=3)):
        left = (index * 0.16 - 0.06 + shift) * SIDE
        top = (0.61 - 0.25 * tall) * SIDE
        draw.rectangle([left, top, left + 0.13 * SIDE, SIDE], fill=tinted((150, 165, 185), scene.time))
    for index, (tall, _, _) in enumerate(scattered(5, seed=5)):
        height = 0.2 + 0.24 * tall
        left, top = (index * 0.22 - 0.06 + shift), 0.88 - height
        draw.rectangle([left * SIDE, top * SIDE, (left + 0.17) * SIDE, SIDE], fill=tinted((85, 95, 118), scene.time))
        _windows(draw, left, top, int(height / 0.09), window)
    draw.rectangle([0, 0.92 * SIDE, SIDE, SIDE], fill=tinted((60, 62, 70), scene.time))
    return image


def _windows(draw: ImageDraw.ImageDraw, left: float, top: float, floors: int, color: Color) -> None:
    for floor in range(floors):
        for column in range(3):
            x, y = left + 0.022 + column * 0.05, top + 0.025 + floor * 0.09
            draw.rectangle([x * SIDE, y * SIDE, (x + 0.03) * SIDE, (y + 0.045) * SIDE], fill=color)


def _ridge(base: float, summits: list[tuple[float, float, float]]) -> Line:
    """Return a line of mountains; each summit has a place, a height above the base and a half width, as shares."""
    line = np.full(SIDE, base * SIDE)
    for place, height, width in summits:
        line = np.minimum(line, (base - height * np.maximum(0, 1 - np.abs(_SHARE - place) / width)) * SIDE)
    return line


def _snow(draw: ImageDraw.ImageDraw, ridge: Line, color: Color) -> None:
    """Draw snow from the highest summit down to a jagged line."""
    limit = ridge.min() + (0.11 + 0.02 * np.sign(np.sin(_SHARE * 55))) * SIDE
    for x in np.flatnonzero(ridge < limit):
        draw.line([(x, ridge[x]), (x, limit[x])], fill=color)


def _pine(draw: ImageDraw.ImageDraw, at: tuple[float, float], height: float, color: Color) -> None:
    """Draw a pine that stands at `at`, as shares of the picture."""
    x, y, tall = at[0] * SIDE, at[1] * SIDE, height * SIDE
    draw.rectangle([x - tall * 0.04, y - tall * 0.2, x + tall * 0.04, y], fill=mix(color, (50, 30, 20), 0.5))
    for tier in range(3):
        half = tall * (0.16 + 0.07 * tier)
        top, bottom = y - tall + tier * tall * 0.24, y - tall * 0.5 + tier * tall * 0.2
        draw.polygon([(x, top), (x + half, bottom), (x - half, bottom)], fill=color)


def _cactus(draw: ImageDraw.ImageDraw, x: float, y: float, tall: float, color: Color) -> None:
    limbs = (
        (-0.1, -1, 0.1, 0),
        (-0.42, -0.75, -0.26, -0.35),
        (-0.42, -0.47, 0, -0.32),
        (0.26, -0.85, 0.42, -0.45),
        (0, -0.58, 0.42, -0.43),
    )
    for left, top, right, bottom in limbs:
        box = [x + tall * left, y + tall * top, x + tall * right, y + tall * bottom]
        draw.rounded_rectangle(box, radius=8, fill=color)
