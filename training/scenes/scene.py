"""Scenes as data, and the combinations that are kept out of training for evaluation."""

from __future__ import annotations

import random
from dataclasses import dataclass

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (243, 140, 30),
    "yellow": (247, 217, 60),
    "green": (42, 160, 72),
    "blue": (42, 92, 214),
    "purple": (130, 60, 185),
    "pink": (245, 140, 190),
    "white": (246, 246, 243),
    "black": (24, 24, 28),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "hexagon", "ring")
PLACES = ("middle", "left", "right", "top", "bottom")
SIZES = ("medium", "small", "big")
TIMES = ("noon", "sunset", "night", "dawn")
KINDS = ("mountain", "desert", "sea", "forest", "hills", "city")
EXTRAS = ("", "lake", "trees", "snow")
SUBJECTS = ("house", "boat", "flower", "tree")


@dataclass(frozen=True, slots=True)
class Shape:
    """A coloured shape on a coloured ground."""

    color: str
    shape: str
    ground: str
    place: str = "middle"
    size: str = "medium"

    @property
    def is_held_out(self) -> bool:
        """Whether this combination is kept out of training, as one in ten is."""
        colors = tuple(COLORS)
        index = colors.index(self.color) * 31 + SHAPES.index(self.shape) * 17 + colors.index(self.ground) * 7
        return index % 10 == 0


@dataclass(frozen=True, slots=True)
class Landscape:
    """A view at a time of day; mountains may have an extra."""

    kind: str
    time: str
    extra: str = ""

    @property
    def is_held_out(self) -> bool:
        """Always false, because there are too few landscapes to leave any out."""
        return False


@dataclass(frozen=True, slots=True)
class Subject:
    """A coloured thing in its surroundings at a time of day."""

    subject: str
    color: str
    time: str

    @property
    def is_held_out(self) -> bool:
        """Whether this combination is kept out of training, as one in ten is."""
        index = SUBJECTS.index(self.subject) * 5 + tuple(COLORS).index(self.color) * 3 + TIMES.index(self.time) * 7
        return index % 10 == 0


Scene = Shape | Landscape | Subject


def random_scene(rng: random.Random) -> Scene:
    """Return a scene for training: half are shapes, about a quarter landscapes, the rest subjects."""
    while True:
        scene = _any_scene(rng)
        if not scene.is_held_out:
            return scene


def _any_scene(rng: random.Random) -> Scene:
    kind = rng.random()
    if kind < 0.5:
        color, ground = rng.sample(tuple(COLORS), 2)
        place = rng.choice(("middle", "middle", *PLACES))
        return Shape(color, rng.choice(SHAPES), ground, place, rng.choice(("medium", *SIZES)))
    if kind < 0.78:
        view = rng.choice(("mountain",) * 5 + KINDS[1:])
        return Landscape(view, rng.choice(TIMES), rng.choice(EXTRAS) if view == "mountain" else "")
    return Subject(rng.choice(SUBJECTS), rng.choice(tuple(COLORS)), rng.choice(TIMES))
