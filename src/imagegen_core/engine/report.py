"""What an engine tells of itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from imagegen_core.engine.batch_size import BatchSize


@dataclass(frozen=True, slots=True)
class GroupReport:
    """How pictures of one kind share forward passes.

    Attributes:
        kind: What the group has in common, in words.
        rows: How many rows go together at most: as many as pay.
        proven: The numbers of rows whose results were those of each picture alone, bit for bit.
        refused: Those whose results were others, and which are not used.
        seconds: How long a step takes, by its rows.
    """

    kind: str
    rows: int
    proven: tuple[int, ...]
    refused: tuple[int, ...]
    seconds: Mapping[int, float]

    @classmethod
    def of(cls, key: Hashable, size: BatchSize) -> GroupReport:
        """What is known of one kind of picture."""
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
        batching: ``exact`` or ``fast``, as asked for.
        because: How requests share forward passes, or why they do not, in a sentence.
        groups: What is known of each kind of picture.
        waiting: Jobs that have not begun.
        running: Jobs that have.
        finished: Pictures so far.
        failed: Jobs that ended with an error, so far.
        cancelled: Jobs that were cancelled, so far.
        steps: How many steps were taken so far, by their rows.
        step_seconds: How long they took, all together.
        stuck: Seconds that a step has been running beyond the limit; 0 where none is.
        broken: Engines that draw no more, by a fault of their own.
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
    """What several engines do, taken together; how they do it, as the first."""
    return replace(
        reports[0],
        groups=tuple(chain.from_iterable(report.groups for report in reports)),
        stuck=max(report.stuck for report in reports),
        steps=dict(sum((Counter(report.steps) for report in reports), Counter())),  # which `asdict` can copy
        **{name: sum(getattr(report, name) for report in reports) for name in _COUNTS},
    )


def ended(report: EngineReport) -> EngineReport:
    """What is left to tell of an engine that is closed: what it counted."""
    return replace(report, groups=(), waiting=0, running=0, stuck=0.0, broken=0)
