"""A base class for workers around an engine that draws a whole picture and reports its steps."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from imagegen_core.errors import JobStoppedError
from imagegen_core.job import StepDone

if TYPE_CHECKING:
    from imagegen_core.job import Job
    from imagegen_core.picture import Picture
    from imagegen_core.request import GenerateRequest


class Progress:
    """The progress of a job: reports its steps, and says if it should stop."""

    def __init__(self, job: Job) -> None:
        """Follow `job`."""
        self._job = job
        self._wants_previews = getattr(job, "wants_previews", False)

    @property
    def is_stopped(self) -> bool:
        """Whether the job was cancelled, or its deadline has passed.

        An engine in C or C++ cannot let an exception pass through its callback. Such a callback asks here, and calls
        the engine's own function to stop.
        """
        return self._job.fut.done()

    def check(self) -> None:
        """Do nothing while the job goes on.

        Raises:
            JobStoppedError: The job was cancelled, or its deadline has passed.
        """
        if self.is_stopped:
            raise JobStoppedError("The job was cancelled, or its deadline has passed: drawing stopped early")

    def step_done(self, step: int, steps: int, preview: Callable[[], bytes | None] | None = None) -> None:
        """Report a finished step.

        Args:
            step: Number of the step, from 1.
            steps: Total number of steps.
            preview: Makes a small PNG of the picture so far, if it can; called only if a client may see it.

        Raises:
            JobStoppedError: See `check`.
        """
        self.check()
        if on_step := getattr(self._job, "on_step", None):
            on_step(StepDone(step, steps, preview() if preview and self._wants_previews else None))


class CallbackWorker(ABC):
    """Draws each picture by one call of an engine, such as a library or a remote service.

    A subclass implements `draw`. Jobs run one at a time; a cancelled or late job ends at its next report.

    Attributes:
        worker_id: The number that tells workers of one process apart.
    """

    def __init__(self, worker_id: int = 0) -> None:
        """Number the worker."""
        self.worker_id = worker_id
        self._drawing = threading.Lock()

    @abstractmethod
    def draw(self, request: GenerateRequest, progress: Progress) -> Picture:
        """Draw a request, and report each step to `progress`.

        Args:
            request: The request, or any object with its attributes; `Backend.resolve` checks it.
            progress: Takes the steps; its errors end the drawing, and should pass through.

        Raises:
            InvalidRequestError: The engine cannot draw the request.
        """

    def run_job(self, job: Job) -> tuple[bytes, int]:
        """Draw the job's request.

        Returns:
            The PNG and the seed.

        Raises:
            InvalidRequestError: The worker cannot draw the request.
            JobStoppedError: The job was cancelled, or its deadline has passed.
        """
        picture = self._drawn(job)
        return picture.png, picture.seed

    def run_job_with_latents(self, job: Job) -> tuple[bytes, int, bytes]:
        """Draw as `run_job` does.

        Returns:
            The PNG, the seed, and the pooled latents of the same pass: see `Picture.latents`.

        Raises:
            InvalidRequestError: The worker cannot draw the request.
            JobStoppedError: The job was cancelled, or its deadline has passed.
        """
        picture = self._drawn(job)
        return picture.png, picture.seed, picture.latents

    def _drawn(self, job: Job) -> Picture:
        progress = Progress(job)
        with self._drawing:
            progress.check()
            try:
                picture = self.draw(job.req, progress)
            except Exception:
                progress.check()  # an engine may turn the stop into an error of its own
                raise
            progress.check()  # an engine that was told to stop may return a half-finished picture
            return picture
