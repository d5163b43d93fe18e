"""A base class for workers that draw step by step."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Generic

from imagegen_core.worker import Result, State

if TYPE_CHECKING:
    from imagegen_core.job import Job
    from imagegen_core.picture import Picture


class SteppedWorkerBase(ABC, Generic[State]):
    """Draws whole jobs by the steps of a `SteppedWorker`, one job at a time.

    Attributes:
        worker_id: The number that tells workers of one process apart.
    """

    def __init__(self, worker_id: int = 0) -> None:
        """Number the worker."""
        self.worker_id = worker_id
        self._drawing = threading.Lock()

    @abstractmethod
    def begin(self, job: Job) -> State:
        """See `SteppedWorker.begin`."""

    @abstractmethod
    def step(self, states: Sequence[State]) -> None:
        """See `SteppedWorker.step`."""

    @abstractmethod
    def finish(self, state: State) -> Callable[[], Picture]:
        """See `SteppedWorker.finish`."""

    def dropped(self, state: State) -> None:
        """See `ReleasesStates.dropped`; the default holds nothing to release."""

    def run_job(self, job: Job) -> tuple[bytes, int]:
        """Draw the job's request.

        Returns:
            The PNG and the seed.

        Raises:
            InvalidRequestError: The worker cannot draw the request.
        """
        picture = self._draw(job)
        return picture.png, picture.seed

    def run_job_with_latents(self, job: Job) -> tuple[bytes, int, bytes]:
        """Draw as `run_job` does.

        Returns:
            The PNG, the seed, and the pooled latents of the same pass: see `Picture.latents`.

        Raises:
            InvalidRequestError: The worker cannot draw the request.
        """
        picture = self._draw(job)
        return picture.png, picture.seed, picture.latents

    def _draw(self, job: Job) -> Picture:
        with self._drawing:
            return self._ended(job, self.finish)()

    def _ended(self, job: Job, end: Callable[[State], Result]) -> Result:
        """Begin a job, take its steps, and return what `end` makes of its state."""
        state = self.begin(job)
        with ExitStack() as unfinished:
            unfinished.callback(self.dropped, state)
            while state.steps_left:
                self.step([state])
                if state.failure is not None:
                    raise state.failure
            result = end(state)
            unfinished.pop_all()
        return result
