"""Batch size of one shape: grow while timings show a gain, and use only sizes proven to be exact."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from statistics import median

SIZES = (1, 2, 3, 4, 6, 8, 12, 16)
"""Allowed numbers of rows in a pass. The list is short because each size needs a proof."""

LARGEST = SIZES[-1]
_SAMPLES = 3  # timings needed to judge a size
_KEPT_SAMPLES = 9
_GAIN = 0.97  # a larger batch must cut the time per row to this fraction, because each picture waits longer in it
_STEPS_BEFORE_ANOTHER_LOOK = 500
_FULL = 2.0  # seconds: a step this long fills the device, so more rows gain little, and their proof delays others


@dataclass
class BatchSize:
    """Measurements and limits of one shape.

    Attributes:
        exact: Whether only proven sizes may be used.
        fits: Largest number of rows: the limit found at load, or less for a time after memory ran out.
        fits_now: Largest number of rows for the memory that is free now.
        rows: The largest size known to be faster per row.
        proven: Sizes with results equal to those of each state alone.
        refused: Sizes with different results.
    """

    exact: bool
    fits: int = LARGEST
    fits_now: int = LARGEST
    rows: int = 1
    proven: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    _seconds: dict[int, deque[float]] = field(default_factory=dict)
    _settled_for: int = 0  # steps until larger sizes are tried again
    _halved_for: int = 0  # steps until `fits` is restored after memory ran out
    _fitted: int = 0  # value of `fits` before it was halved

    def choose(self, rows: Sequence[int]) -> int:
        """Return how many of the waiting states to step together.

        Args:
            rows: The rows of each state, in scheduling order; at least one state.
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
        """Maximum rows of a step now: the best known size, or twice as many to test a larger size."""
        return min(self.fits, self.fits_now, 2 * self.rows if self._may_grow else self.rows)

    def needs_trial(self, rows: int, states: int) -> bool:
        """Return whether a batch of this size still needs a proof; a single state never does."""
        return self.exact and states > 1 and rows not in self.proven

    def tried(self, rows: int, *, same: bool) -> None:
        """Record the result of a trial."""
        (self.proven if same else self.refused).add(rows)

    def timed(self, rows: int, seconds: float) -> None:
        """Record the duration of a step, and judge a larger size after enough samples."""
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
        """Limit batches to half of `rows` for a time, after memory ran out."""
        if not self._halved_for:
            self._fitted = self.fits
        self._halved_for = _STEPS_BEFORE_ANOTHER_LOOK
        self.fits = max(1, rows // 2)
        self.rows = min(self.rows, self.fits)

    def expected(self) -> float:
        """Return a rough estimate of the next step's duration in seconds."""
        return max((median(samples) for samples in self._seconds.values()), default=0.0)

    def timings(self) -> dict[int, float]:
        """Return the median seconds of a step for each number of rows."""
        return {rows: median(samples) for rows, samples in sorted(self._seconds.items())}

    @property
    def _may_grow(self) -> bool:
        timed = [median(samples) for samples in self._seconds.values() if len(samples) >= _SAMPLES]
        return bool(timed) and not self._settled_for and min(timed) < _FULL
