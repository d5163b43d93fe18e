"""Coloured shapes on coloured grounds."""

from __future__ import annotations

import math
import random

from PIL import Image, ImageDraw

from training.scenes.canvas import SIDE, Color, gradient, near, polygon_points
from training.scenes.scene import COLORS, Shape

_RADIUS = {"medium": 0.24, "small": 0.14, "big": 0.33}
_OFF_CENTER_RADIUS = 0.23  # so that a shape at an edge fits
_OFFSETS = {"middle": (0, 0), "left": (-0.22, 0), "right": (0.22, 0), "top": (0, -0.22), "bottom": (0, 0.22)}


def draw_shape(scene: Shape, rng: random.Random) -> Image.Image:
    """Draw the shape at the place and in the size of the caption; only the light on the ground varies."""
    image = _ground(COLORS[scene.ground], rng)
    radius = _RADIUS[scene.size] if scene.place == "middle" else min(_RADIUS[scene.size], _OFF_CENTER_RADIUS)
    dx, dy = _OFFSETS[scene.place]
    x, y = (near(rng, 0.5 + offset, 0.006) * SIDE for offset in (dx, dy))
    image.paste(COLORS[scene.color], (0, 0), silhouette(scene.shape, x, y, near(rng, radius, 0.004) * SIDE))
    return image


def silhouette(shape: str, x: float, y: float, radius: float) -> Image.Image:
    """Return a mask of `shape` around (x, y), with a radius in pixels."""
    mask = Image.new("L", (SIDE, SIDE), 0)
    draw = ImageDraw.Draw(mask)
    match shape:
        case "circle":
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=255)
        case "square":
            half = radius * 0.88
            draw.rectangle([x - half, y - half, x + half, y + half], fill=255)
        case "triangle":
            draw.polygon([(x, y - radius), (x + radius, y + radius * 0.8), (x - radius, y + radius * 0.8)], fill=255)
        case "star":
            draw.polygon(polygon_points(5, radius * 1.12, (x, y), inner=0.42), fill=255)
        case "diamond":
            wide, tall = radius * 0.72, radius * 1.15
            draw.polygon([(x, y - tall), (x + wide, y), (x, y + tall), (x - wide, y)], fill=255)
        case "hexagon":
            draw.polygon(polygon_points(6, radius, (x, y), turn=math.pi / 6), fill=255)
        case "ring":
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=255)
            hole = radius * 0.55
            draw.ellipse([x - hole, y - hole, x + hole, y + hole], fill=0)
        case "heart":
            draw.polygon([_heart(x, y, radius, 2 * math.pi * step / 60) for step in range(60)], fill=255)
    return mask


def _heart(x: float, y: float, radius: float, angle: float) -> tuple[float, float]:
    """Return a point of the heart curve, https://mathworld.wolfram.com/HeartCurve.html (8)."""
    rise = 13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle)
    return x + radius * math.sin(angle) ** 3, y - radius * rise / 16


def _ground(color: Color, rng: random.Random) -> Image.Image:
    """Return the ground, lighter at one end than at the other."""
    slope = rng.uniform(-0.07, 0.07)
    return gradient(*(_lit(color, 1 + sign * slope) for sign in (1, -1)))


def _lit(color: Color, factor: float) -> Color:
    return tuple(int(min(255, level * factor)) for level in color)
