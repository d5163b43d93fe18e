"""Reports of an engine's state and counters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from imagegen_core.engine.batch_size import BatchSize


@dataclass(frozen=True, slots=True)
class GroupReport:
    """Batching of one group of pictures.

    Attributes:
        kind: The group key as text.
        rows: The largest batch size known to be faster per row.
        proven: Batch sizes with results equal, bit for bit, to those of each picture alone.
        refused: Batch sizes with different results; they are not used.
        seconds: Median seconds of a step for each number of rows.
    """

    kind: str
    rows: int
    proven: tuple[int, ...]
    refused: tuple[int, ...]
    seconds: Mapping[int, float]

    @classmethod
    def of(cls, key: Hashable, size: BatchSize) -> GroupReport:
        """Create the report of one group."""
        return cls(
            kind=str(key),
            rows=size.rows,
            proven=tuple(sorted(size.proven)),
            refused=tuple(sorted(size.refused)),
            seconds=size.timings(),
        )


@dataclass(frozen=True, slots=True)
class EngineReport:
    """The state of an engine, for people and for ``/health``.

    Attributes:
        batching: ``exact`` or ``fast``, as configured.
        because: A sentence about how requests share forward passes, or why they do not.
        groups: Reports of the groups.
        waiting: Jobs in the queue.
        running: Jobs in progress.
        finished: Pictures so far.
        failed: Jobs that ended with an error so far.
        cancelled: Jobs cancelled so far.
        steps: Number of steps so far, for each number of rows; a part of the work between two stages counts as one.
        step_seconds: Total seconds of all steps.
        stuck: Seconds that the current step has been running, if this is over the limit; else 0.
        broken: Number of engines that stopped after an internal error.
    """

    batching: str
    because: str
    groups: tuple[GroupReport, ...]
    waiting: int
    running: int
    finished: int
    failed: int
    cancelled: int
    steps: Mapping[int, int]
    step_seconds: float
    stuck: float
    broken: int


_COUNTS = ("waiting", "running", "finished", "failed", "cancelled", "step_seconds", "broken")


def merged(reports: Sequence[EngineReport]) -> EngineReport:
    """Merge the reports of several engines; settings come from the first."""
    return replace(
        reports[0],
        groups=tuple(chain.from_iterable(report.groups for report in reports)),
        stuck=max(report.stuck for report in reports),
        steps=dict(sum((Counter(report.steps) for report in reports), Counter())),  # a dict for `asdict`
        **{name: sum(getattr(report, name) for report in reports) for name in _COUNTS},
    )


def ended(report: EngineReport) -> EngineReport:
    """Return the report of a closed engine: only its counters remain."""
    return replace(report, groups=(), waiting=0, running=0, stuck=0.0, broken=0)
