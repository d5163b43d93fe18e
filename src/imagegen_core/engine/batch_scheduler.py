"""Choose the next batch: deficit round robin between groups, highest response ratio within a group."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from imagegen_core.engine.batch_size import BatchSize
from imagegen_core.engine.ticket import Ticket
from imagegen_core.worker import DenoisingState

_LEAST_QUANTUM = 0.001  # seconds, until a step has been timed


@dataclass(eq=False)
class ActiveJob:
    """A job in progress.

    Attributes:
        ticket: The job's ticket.
        state: The worker's state of the job, from its beginning to its end.
        is_finished: Whether the worker has finished the state.
        stage: The state's stage when it joined its group.
    """

    ticket: Ticket
    state: DenoisingState = field(init=False)
    is_finished: bool = False
    stage: int = 0


@dataclass(eq=False)
class Group:
    """Jobs that can share a forward pass.

    Attributes:
        key: The group key; equal for all members.
        size: The batch size of this group.
        members: The jobs.
        deficit: Device seconds that the group may still use in this round.
    """

    key: Hashable
    size: BatchSize
    members: list[ActiveJob] = field(default_factory=list)
    deficit: float = 0.0

    def batch(self, now: float) -> list[ActiveJob]:
        """Return the next batch: by priority, then by the ratio of waiting time to remaining work.

        This is the highest response ratio (Brinch Hansen 1971). Short jobs overtake long ones, and jobs in progress
        continue. No job starves, because the ratio grows with the waiting time.
        """
        self.members.sort(key=lambda job: (-job.ticket.priority, -_ratio(job, now)))
        return self.members[: self.size.choose([job.state.rows for job in self.members])]


class BatchScheduler:
    """The groups with members; each group gets an equal share of device time, regardless of its number of jobs.

    This is deficit round robin (Shreedhar and Varghese 1995). A group steps while its deficit is not negative, then
    waits for the other groups.
    """

    def __init__(self) -> None:
        self._groups: OrderedDict[Hashable, Group] = OrderedDict()

    def groups(self) -> list[Group]:
        """Return all groups, the next one first."""
        return list(self._groups.values())

    def join(self, running: ActiveJob, key: Hashable, size: BatchSize) -> None:
        """Add a job to its group, and create the group if it is missing."""
        group = self._groups.setdefault(key, Group(key, size))
        group.members.append(running)

    def leave(self, group: Group, gone: Iterable[ActiveJob]) -> None:
        """Remove jobs from their group; an empty group is deleted with its deficit."""
        leaving = set(map(id, gone))
        group.members = [job for job in group.members if id(job) not in leaving]
        if not group.members:
            del self._groups[group.key]

    def next(self) -> Group | None:
        """Return the group to step next, or None without groups."""
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
        """Number of jobs."""
        return sum(len(group.members) for group in self._groups.values())

    @property
    def rows(self) -> int:
        """Number of rows of all jobs together."""
        return sum(job.state.rows for group in self._groups.values() for job in group.members)


def _ratio(job: ActiveJob, now: float) -> float:
    work = job.state.steps_left * job.state.rows
    return (now - job.ticket.since) / max(work, 1)
