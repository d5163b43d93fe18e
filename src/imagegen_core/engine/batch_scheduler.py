"""Whose turn it is: between groups by deficit round robin, within one by the highest response ratio."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from imagegen_core.engine.batch_size import BatchSize
from imagegen_core.engine.ticket import Ticket

_LEAST_QUANTUM = 0.001  # seconds, while no step was timed


@dataclass(eq=False)
class ActiveJob:
    """A job that has begun."""

    ticket: Ticket
    state: Any


@dataclass(eq=False)
class Group:
    """Jobs that can share a forward pass.

    Attributes:
        key: What they have in common.
        size: How many rows of them go together.
        members: The jobs.
        deficit: Seconds of the device that the group has coming.
    """

    key: Hashable
    size: BatchSize
    members: list[ActiveJob] = field(default_factory=list)
    deficit: float = 0.0

    def batch(self, now: float) -> list[ActiveJob]:
        """Those who go next: by priority, then by how long each waited for how little work.

        The ratio of waiting to work (Brinch Hansen 1971) lets short jobs by, keeps what has begun going, and starves
        nobody, since it grows with waiting.
        """
        self.members.sort(key=lambda one: (-one.ticket.priority, -_ratio(one, now)))
        return self.members[: self.size.choose([one.state.rows for one in self.members])]


class BatchScheduler:
    """The groups that have members, each served in proportion to the device's time, not to its number of jobs.

    Deficit round robin (Shreedhar and Varghese 1995): a group steps while the time it has coming lasts, and then waits
    for the others.
    """

    def __init__(self) -> None:
        """Nobody is there."""
        self._groups: OrderedDict[Hashable, Group] = OrderedDict()

    def groups(self) -> list[Group]:
        """All of them, the next first."""
        return list(self._groups.values())

    def join(self, running: ActiveJob, key: Hashable, size: BatchSize) -> None:
        """Add a job to its group."""
        group = self._groups.setdefault(key, Group(key, size))
        group.members.append(running)

    def leave(self, group: Group, gone: Iterable[ActiveJob]) -> None:
        """Take jobs out of their group; an empty group has nothing coming."""
        leaving = set(map(id, gone))
        group.members = [one for one in group.members if id(one) not in leaving]
        if not group.members:
            del self._groups[group.key]

    def next(self) -> Group | None:
        """The group whose turn it is; None where there is none."""
        if not self._groups:
            return None
        quantum = max(_LEAST_QUANTUM, *(group.size.expected() for group in self._groups.values()))
        while True:
            group = next(iter(self._groups.values()))
            if group.deficit >= 0:
                return group
            group.deficit += quantum
            self._groups.move_to_end(group.key)

    @property
    def count(self) -> int:
        """How many jobs there are."""
        return sum(len(group.members) for group in self._groups.values())

    @property
    def rows(self) -> int:
        """How many rows they have, all together."""
        return sum(one.state.rows for group in self._groups.values() for one in group.members)


def _ratio(one: ActiveJob, now: float) -> float:
    work: int = one.state.steps_left * one.state.rows
    return (now - one.ticket.since) / max(work, 1)
