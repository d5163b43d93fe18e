"""A coloured house, boat, flower or tree in its surroundings."""

from __future__ import annotations

import math
import random

from PIL import Image, ImageDraw

from training.scenes.canvas import COLUMNS, SIDE, Color, disc, fill_below, mix, near, sky, tinted, waves
from training.scenes.scene import COLORS, Subject

_MEADOW = (86, 165, 80)
_CENTER = 0.42  # left of the sun


def draw_subject(scene: Subject, rng: random.Random) -> Image.Image:
    """Draw the subject."""
    painters = {"house": _house, "boat": _boat, "flower": _flower, "tree": _tree}
    image, draw = sky(scene.time, horizon=0.5)
    color = tinted(COLORS[scene.color], scene.time, 0.3)
    painters[scene.subject](draw, scene, color, near(rng, 1.0, 0.015))
    return image


def _house(draw: ImageDraw.ImageDraw, scene: Subject, color: Color, scale: float) -> None:
    x, y, side = _CENTER * SIDE, 0.75 * SIDE, 0.27 * SIDE * scale
    _knoll(draw, scene.time)
    draw.rectangle([x - side * 0.62, y - side, x + side * 0.62, y], fill=color)
    roof = [(x - side * 0.8, y - side), (x, y - side * 1.6), (x + side * 0.8, y - side)]
    draw.polygon(roof, fill=tinted((125, 65, 48), scene.time))
    draw.rectangle([x - side * 0.14, y - side * 0.5, x + side * 0.14, y], fill=(62, 42, 36))
    window = (255, 232, 145) if scene.time in ("night", "sunset") else (205, 230, 245)
    for offset in (-0.38, 0.38):
        left, right = x + (offset - 0.13) * side, x + (offset + 0.13) * side
        draw.rectangle([left, y - side * 0.78, right, y - side * 0.52], fill=window)


def _boat(draw: ImageDraw.ImageDraw, scene: Subject, color: Color, scale: float) -> None:
    x, y, side = _CENTER * SIDE, 0.73 * SIDE, 0.42 * SIDE * scale
    water = tinted((28, 110, 175), scene.time)
    draw.rectangle([0, 0.63 * SIDE, SIDE, SIDE], fill=water)
    waves(draw, water, 0.84 * SIDE, 14, 5)
    hull = [(-0.55, 0.0), (0.6, 0.0), (0.4, 0.24), (-0.38, 0.24)]
    draw.polygon([(x + side * dx, y + side * dy) for dx, dy in hull], fill=tinted((120, 72, 44), scene.time))
    draw.line([(x, y - side * 1.05), (x, y)], fill=(70, 50, 35), width=7)
    draw.polygon([(x + 5, y - side), (x + 5, y - side * 0.06), (x + side * 0.58, y - side * 0.06)], fill=color)
    small = [(x - 6, y - side * 0.9), (x - 6, y - side * 0.06), (x - side * 0.42, y - side * 0.06)]
    draw.polygon(small, fill=mix(color, (0, 0, 0), 0.12))


def _flower(draw: ImageDraw.ImageDraw, scene: Subject, color: Color, scale: float) -> None:
    x, y, reach = _CENTER * SIDE, 0.4 * SIDE, 0.155 * SIDE * scale
    green = tinted((36, 120, 52), scene.time)
    draw.rectangle([0, 0.73 * SIDE, SIDE, SIDE], fill=tinted(_MEADOW, scene.time))
    draw.line([(x, y), (x, 0.92 * SIDE)], fill=green, width=14)
    for left, right in ((-0.14, 0.0), (0.0, 0.14)):
        draw.ellipse([x + left * SIDE, 0.68 * SIDE, x + right * SIDE, 0.74 * SIDE], fill=green)
    for petal in range(8):
        angle = 2 * math.pi * petal / 8
        disc(draw, x + reach * math.cos(angle), y + reach * math.sin(angle), reach * 0.52, color)
    heart = (120, 70, 40) if scene.color in ("yellow", "orange") else (250, 205, 60)
    disc(draw, x, y, reach * 0.55, heart)


def _tree(draw: ImageDraw.ImageDraw, scene: Subject, color: Color, scale: float) -> None:
    x, y, reach = _CENTER * SIDE, 0.73 * SIDE, 0.13 * SIDE * scale
    _knoll(draw, scene.time)
    trunk = [x - 0.03 * SIDE, y - 0.25 * SIDE, x + 0.03 * SIDE, y + 0.01 * SIDE]
    draw.rectangle(trunk, fill=tinted((110, 70, 45), scene.time))
    for dx, dy in ((-0.95, 0.1), (0.95, 0.1), (0.0, -0.8), (-0.5, -0.35), (0.5, -0.35), (0.0, 0.2)):
        disc(draw, x + dx * reach, y - 0.36 * SIDE + dy * reach, reach * 0.95, color)


def _knoll(draw: ImageDraw.ImageDraw, time: str) -> None:
    """Draw a green rise whose top is below the subject."""
    fill_below(draw, (0.71 + 0.3 * (COLUMNS / SIDE - _CENTER) ** 2) * SIDE, tinted(_MEADOW, time))
