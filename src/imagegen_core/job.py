"""A request on its way through a worker, and the news it gives on that way."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from imagegen_core.request import GenerateRequest


@dataclass(frozen=True, slots=True)
class StepDone:
    """One denoising step is behind the job: `step` of `steps`, counted from 1."""

    step: int
    steps: int


@dataclass
class Job:
    """A request, the future its asker waits on, and when it came.

    Attributes:
        req: The request, or any object with its attributes.
        fut: Resolved by whoever runs the worker, never by the worker itself.
        submitted_at: Seconds of `time.time`.
        on_step: Called on the drawing thread after each denoising step; it should return at once.
    """

    req: GenerateRequest
    fut: Future[Any] = field(default_factory=Future)
    submitted_at: float = field(default_factory=time.time)
    on_step: Callable[[StepDone], None] | None = None
