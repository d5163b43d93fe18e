"""Dead leaves: overlapping shapes of every size and colour, which teach a VAE edges and flat colours.

Lee, Mumford and Huang, "Occlusion Models for Natural Images" (2001).
"""

from __future__ import annotations

import math
import random

import numpy as np
import numpy.typing as npt
from PIL import ImageDraw

from training.scenes.canvas import SIDE, Color, gradient, polygon_points
from training.scenes.scene import COLORS


def collage(rng: random.Random) -> npt.NDArray[np.uint8]:
    """Return a collage's pixels [256, 256, 3]."""
    image = gradient(_color(rng), _color(rng))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.randint(25, 70)):
        _leaf(draw, rng)
    return np.asarray(image.reduce(2))


def _leaf(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    reach = 20 * math.exp(rng.uniform(0, 2.3))  # equal numbers of each order of size
    x, y, color, kind = rng.uniform(0, SIDE), rng.uniform(0, SIDE), _color(rng), rng.random()
    if kind < 0.3:
        tall = reach * rng.uniform(0.5, 1)
        draw.ellipse([x - reach, y - tall, x + reach, y + tall], fill=color)
    elif kind < 0.5:
        draw.rectangle([x - reach, y - reach, x + reach * rng.uniform(0, 1), y + reach * rng.uniform(0, 1)], fill=color)
    elif kind < 0.9:
        inner, turn = rng.choice((None, None, 0.45)), rng.uniform(0, 2 * math.pi)
        draw.polygon(polygon_points(rng.randint(3, 6), reach, (x, y), inner, turn), fill=color)
    else:
        end = (x + rng.uniform(-200, 200), y + rng.uniform(-200, 200))
        draw.line([(x, y), end], fill=color, width=rng.randint(2, 10))


def _color(rng: random.Random) -> Color:
    """Return any colour, or a colour near those that captions name."""
    if rng.random() < 0.5:
        return tuple(rng.randint(0, 255) for _ in range(3))
    named = COLORS[rng.choice(tuple(COLORS))]
    return tuple(min(255, max(0, level + rng.randint(-15, 15))) for level in named)
