"""A1111's count of steps at a denoising strength, as a strength for this server's requests.

Source: ``setup_img2img_steps`` in ``modules/sd_samplers_common.py`` of A1111 1.10.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

_MOST = 0.999
_LONGEST = 1e9  # steps; no server takes as many


@dataclass(frozen=True, slots=True)
class StepCount:
    """The steps of a schedule, of which the last are drawn.

    Attributes:
        steps: The number of steps of the schedule.
        drawn: The number of drawn steps, from 1.
    """

    steps: int
    drawn: int

    @classmethod
    def of_part(cls, steps: int, denoising: float) -> Self:
        """Return the count of ``img2img``: a part of the steps, and one more."""
        return cls(steps, int(min(denoising, _MOST) * steps) + 1)

    @classmethod
    def of_all(cls, steps: int, denoising: float) -> Self:
        """Return the count of hires and of the option ``img2img_fix_steps``: the last steps of a longer schedule.

        A1111 draws no step at a strength of 0; this server draws one.
        """
        if denoising <= 0:
            return cls(steps, 1)
        return cls(int(min(steps / min(denoising, _MOST), _LONGEST)), steps)

    def strength(self, *, rounds_up: bool = False) -> float:
        """Return a strength from 0 to 1 that draws these steps.

        Args:
            rounds_up: Whether the drawn part of the steps is rounded up, as for flow matching, instead of down.
        """
        strength = self.drawn / self.steps
        if rounds_up:
            return math.nextafter(strength, 0) if strength * self.steps > self.drawn else strength
        return math.nextafter(strength, 1) if strength * self.steps < self.drawn else strength
