"""How many rows of one shape go into a forward pass: as many as pay, found by timing them, and none unproven."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from statistics import median

SIZES = (1, 2, 3, 4, 6, 8, 12, 16)
"""The numbers of rows that share a pass: few, as each must be proven."""

LARGEST = SIZES[-1]
_SAMPLES = 3  # timings of a size before it is judged
_KEPT_SAMPLES = 9
_GAIN = 0.97  # of the time a row took before: a larger batch pays only below, since it makes each picture wait longer
_STEPS_BEFORE_ANOTHER_LOOK = 500


@dataclass
class BatchSize:
    """What is known of one shape.

    Attributes:
        exact: Whether only sizes that are proven may be used.
        fits: Rows beyond which it does not go: those found at load, or fewer for a time after memory ran out.
        fits_now: Rows that the memory takes as it is now.
        rows: The largest size that is known to pay.
        proven: Sizes whose results were those of each state alone.
        refused: Sizes whose results were others.
    """

    exact: bool
    fits: int = LARGEST
    fits_now: int = LARGEST
    rows: int = 1
    proven: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    _seconds: dict[int, deque[float]] = field(default_factory=dict)
    _settled_for: int = 0  # steps to go before larger sizes are looked at again
    _halved_for: int = 0  # steps to go before those that memory did not take are tried again
    _fitted: int = 0  # what `fits` was before

    def choose(self, rows: Sequence[int]) -> int:
        """How many of the waiting states to step together.

        Args:
            rows: The rows of each state, in the order of their turn; from 1 state.
        """
        count, limit = 1, self.limit
        for taken, total in enumerate(accumulate(rows), start=1):
            if total > limit:
                break
            if total in SIZES and total not in self.refused:
                count = taken
        return count

    @property
    def limit(self) -> int:
        """How many rows a step may have now: as many as pay, or twice that to see whether it does."""
        return min(self.fits, self.fits_now, self.rows if self._settled_for or not self._is_timed else 2 * self.rows)

    def needs_trial(self, rows: int, states: int) -> bool:
        """Whether a batch of this size must still be proven; one state by itself never must."""
        return self.exact and states > 1 and rows not in self.proven

    def tried(self, rows: int, *, same: bool) -> None:
        """Note a trial's outcome."""
        (self.proven if same else self.refused).add(rows)

    def timed(self, rows: int, seconds: float) -> None:
        """Note how long a step took; a size larger than those that pay is judged once it is timed often enough."""
        samples = self._seconds.setdefault(rows, deque(maxlen=_KEPT_SAMPLES))
        samples.append(seconds)
        self._settled_for = max(0, self._settled_for - 1)
        if self._halved_for:
            self._halved_for -= 1
            if not self._halved_for:
                self.fits = self._fitted
        if rows <= self.rows or len(samples) < _SAMPLES:
            return
        smaller = [median(taken) / size for size, taken in self._seconds.items() if size < rows]
        if not smaller or median(samples) / rows < _GAIN * min(smaller):
            self.rows = rows
        else:
            self._settled_for = _STEPS_BEFORE_ANOTHER_LOOK
            del self._seconds[rows]

    def halve(self, rows: int) -> None:
        """Take no more than half of `rows` for a time, as the memory did not take them."""
        if not self._halved_for:
            self._fitted = self.fits
        self._halved_for = _STEPS_BEFORE_ANOTHER_LOOK
        self.fits = max(1, rows // 2)
        self.rows = min(self.rows, self.fits)

    def expected(self) -> float:
        """Seconds that the next step will take, roughly."""
        return max((median(samples) for samples in self._seconds.values()), default=0.0)

    def timings(self) -> dict[int, float]:
        """Seconds a step by its rows."""
        return {rows: median(samples) for rows, samples in sorted(self._seconds.items())}

    @property
    def _is_timed(self) -> bool:
        return any(len(samples) >= _SAMPLES for samples in self._seconds.values())
