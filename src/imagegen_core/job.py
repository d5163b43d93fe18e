"""A request on its way through a worker, and the news it gives on that way."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from imagegen_core.picture import Picture
from imagegen_core.request import GenerateRequest


@dataclass(frozen=True, slots=True)
class Queued:
    """The job waits; `place` 1 is the next to be started."""

    place: int


@dataclass(frozen=True, slots=True)
class Started:
    """The job's prompt is encoded and its noise drawn: the first step can come."""


@dataclass(frozen=True, slots=True)
class StepDone:
    """One denoising step is behind the job.

    Attributes:
        step: Which, counted from 1.
        steps: Of how many.
        preview: What the latents look like, as a PNG an eighth of the picture's size; None where none was asked for.
    """

    step: int
    steps: int
    preview: bytes | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """The picture is there."""

    picture: Picture


@dataclass(frozen=True, slots=True)
class Failed:
    """There will be no picture, and why: also an expired deadline."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The job was cancelled by who had asked for it."""


Event = Queued | Started | StepDone | Done | Failed | Cancelled


@dataclass
class Job:
    """A request, the future its asker waits on, and when it came.

    Attributes:
        req: The request, or any object with its attributes.
        fut: Resolved with what `Worker.run_job` returns, by whoever runs the worker, never by the worker itself.
        submitted_at: Seconds of `time.time`.
        on_step: Called on the drawing thread after each denoising step; it should return at once.
    """

    req: GenerateRequest
    fut: Future[Any] = field(default_factory=Future)
    submitted_at: float = field(default_factory=time.time)
    on_step: Callable[[StepDone], None] | None = None
