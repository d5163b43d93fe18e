"""Captions of scenes, with varied phrases."""

from __future__ import annotations

import random

from training.scenes.scene import Landscape, Scene, Shape, Subject

_PLACES = {
    "left": ("on the left", "at the left", "on the left side"),
    "right": ("on the right", "at the right", "on the right side"),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
}
_TIMES = {
    "noon": ("at noon", "at noon", "during the day", "on a sunny day", "in daylight", ""),
    "sunset": ("at sunset", "at sunset", "at sunset", "at dusk", "in the evening"),
    "night": ("at night", "at night", "at night", "under the stars"),
    "dawn": ("at dawn", "at dawn", "at sunrise", "in the early morning"),
}
_VIEWS = {
    "mountain": (
        "a {}mountain landscape",
        "a {}mountain landscape",
        "mountains",
        "a landscape with mountains",
    ),
    "desert": ("a {}desert landscape", "a desert with dunes and a cactus", "the desert", "sand dunes"),
    "sea": ("the sea", "the ocean", "a {}sea view", "waves on the ocean"),
    "forest": ("a {}forest", "a pine forest", "a forest landscape", "the woods"),
    "hills": ("green hills", "rolling hills", "a {}landscape with hills", "a meadow with hills"),
    "city": ("a {}city skyline", "a city", "a city with tall buildings", "skyscrapers"),
}
_EXTRAS = {
    "": ("",),
    "lake": ("with a lake", "by a lake"),
    "trees": ("with trees", "with pine trees"),
    "snow": ("with snow", "covered in snow"),
}
_SUBJECTS = {
    "house": ("{a} house on a hill", "{a} house", "{a} house in a field"),
    "boat": (
        "{a} boat on the sea",
        "a boat with {a} sail",
        "{a} sailboat",
        "a sailboat with {color} sails on the water",
    ),
    "flower": ("{a} flower", "{a} flower in a meadow", "{a} flower in a field"),
    "tree": ("{a} tree", "{a} tree on a hill", "a tree with {color} leaves"),
}
_BEFORE = ("a picture of ", "a painting of ", "a photo of ", "an illustration of ", "a drawing of ")
_AFTER = (", highly detailed", ", digital art", ", high quality", ", 4k", ", beautiful", ", flat design")


def caption(scene: Scene, rng: random.Random) -> str:
    """Return a caption that names everything that fixes the picture."""
    match scene:
        case Shape():
            text = _shape(scene, rng)
        case Landscape():
            text = _landscape(scene, rng)
        case Subject():
            text = _subject(scene, rng)
    dressed = rng.random()
    if dressed < 0.08:
        return rng.choice(_BEFORE) + text
    return text + rng.choice(_AFTER) if dressed < 0.16 else text


def _shape(scene: Shape, rng: random.Random) -> str:
    size = {"medium": "", "small": "small", "big": rng.choice(("big", "large"))}[scene.size]
    name = " ".join(word for word in (size, scene.color, scene.shape) if word)
    phrases = (
        f"{_a(name)} on {_a(scene.ground)} background",
        f"{_a(name)} on {_a(scene.ground)} background",
        f"{name}, {scene.ground} background",
        f"{_a(name)} on {_a(scene.ground)}",
        f"{_a(name)} in front of {_a(scene.ground)} background",
        f"{_a(scene.ground)} background with {_a(name)}",
    )
    text = rng.choice(phrases)
    if scene.place == "middle":
        return text
    return text + rng.choice((" ", ", ")) + rng.choice(_PLACES[scene.place])


def _landscape(scene: Landscape, rng: random.Random) -> str:
    view = rng.choice(_VIEWS[scene.kind]).format(
        rng.choice(("", "", "majestic ", "majestic ", "beautiful ", "peaceful "))
    )
    parts = [rng.choice(_TIMES[scene.time]), rng.choice(_EXTRAS[scene.extra])]
    if rng.random() < 0.4:
        parts.reverse()
    return " ".join(part for part in (view, *parts) if part)


def _subject(scene: Subject, rng: random.Random) -> str:
    text = rng.choice(_SUBJECTS[scene.subject]).format(a=_a(scene.color), color=scene.color)
    return f"{text} {rng.choice(_TIMES[scene.time])}".rstrip()


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
