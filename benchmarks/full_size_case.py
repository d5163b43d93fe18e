"""A picture to measure, the seconds of its parts, and a text for it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Protocol


@dataclass(frozen=True)
class Case:
    """A picture to draw.

    Attributes:
        side: The width and height in pixels.
        steps: The denoising steps.
        guidance: The guidance scale; above 1, a step runs the network for two rows.
    """

    side: int
    steps: int = 4
    guidance: float = 1.0

    def __str__(self) -> str:
        steps = "1 step" if self.steps == 1 else f"{self.steps} steps"
        return f"{self.side} px, {steps}" + (f", guidance {self.guidance:g}" if self.guidance > 1 else "")

    @property
    def shortest(self) -> Case:
        """The same picture with one step."""
        return replace(self, steps=1)

    @property
    def rows(self) -> int:
        """The rows of a step."""
        return 1 + (self.guidance > 1)

    def prompt(self, seed: int) -> str:
        """Return a new text for each seed, so that no program answers from a cache."""
        return f"a majestic mountain landscape at sunset, take {seed}"


class Program(Protocol):
    """A loaded program that draws."""

    def prepare(self, case: Case) -> None:
        """Do all that a program does once for pictures of this size and guidance."""

    def draw(self, case: Case, seed: int) -> dict[str, float]:
        """Draw a picture, and return the seconds of ``picture`` as a whole and of its parts, as far as known.

        The parts are ``text``, ``step`` (one of the case's steps), ``VAE``, and ``PNG`` with the conversion to pixels.
        """


class Laps:
    """Measures consecutive parts of a picture; on a GPU it waits for the end of each."""

    def __init__(self, device: str = "cpu") -> None:
        self._is_cuda = device.startswith("cuda")
        self._began = self._last = self._now()
        self._seconds: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """End a part."""
        now = self._now()
        self._seconds[name] = now - self._last
        self._last = now

    def results(self, steps: int) -> dict[str, float]:
        """Return the seconds, with ``steps`` as the mean ``step``, and ``picture`` as the whole."""
        seconds = dict(self._seconds, picture=self._last - self._began)
        seconds["step"] = seconds.pop("steps") / steps
        return seconds

    def _now(self) -> float:
        if self._is_cuda:
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()
