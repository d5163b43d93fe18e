"""A job (a request in progress) and its events."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from imagegen_core.picture import Picture
from imagegen_core.request import GenerateRequest


@dataclass(frozen=True, slots=True)
class Queued:
    """The job waits in the queue; at `place` 1 it is next."""

    place: int


@dataclass(frozen=True, slots=True)
class Started:
    """The job's prompt is encoded and its noise is drawn; the first step follows."""


@dataclass(frozen=True, slots=True)
class StepDone:
    """A denoising step is done.

    Attributes:
        step: Number of the step, from 1.
        steps: Total number of steps.
        preview: A preview of the latents, as a PNG of an eighth of the picture's size; None if previews are off.
    """

    step: int
    steps: int
    preview: bytes | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """The picture is finished."""

    picture: Picture


@dataclass(frozen=True, slots=True)
class Failed:
    """The job failed with `error`, for example after its deadline."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The client cancelled the job."""


Event = Queued | Started | StepDone | Done | Failed | Cancelled


@dataclass
class Job:
    """A request with its future and its arrival time.

    Attributes:
        req: The request, or any object with its attributes.
        fut: Future for the result of `Worker.run_job`; the caller of the worker resolves it, never the worker.
        submitted_at: Arrival in seconds of `time.time`.
        on_step: Callback on the drawing thread after each denoising step; it should return at once.
        wants_previews: Whether a worker without steps of its own should put a preview into each `StepDone`.
        is_first_part: Whether the worker draws the steps before the refiner alone; see `HandsOver`.
        half_drawn: The picture that another worker has begun, for the refiner's worker; see `HandsOver`.
        id: A random name, unique among all jobs.
    """

    req: GenerateRequest
    fut: Future[tuple[bytes, int]] = field(default_factory=Future)
    submitted_at: float = field(default_factory=time.time)
    on_step: Callable[[StepDone], None] | None = None
    wants_previews: bool = False
    is_first_part: bool = False
    half_drawn: Any = None
    id: str = field(default_factory=lambda: f"job-{secrets.token_hex(12)}")
