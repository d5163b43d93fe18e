"""The drawing of scenes."""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt

from training.scenes.landscapes import draw_landscape
from training.scenes.scene import Landscape, Scene, Shape, Subject
from training.scenes.shapes import draw_shape
from training.scenes.subjects import draw_subject


def render(scene: Scene, rng: random.Random) -> npt.NDArray[np.uint8]:
    """Return the scene's pixels [256, 256, 3]; `rng` varies the details that the caption leaves open."""
    match scene:
        case Shape():
            image = draw_shape(scene, rng)
        case Landscape():
            image = draw_landscape(scene, rng)
        case Subject():
            image = draw_subject(scene, rng)
    return np.asarray(image.reduce(2))
