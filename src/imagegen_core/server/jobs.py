"""Jobs of the asynchronous API: clients post them, and fetch the pictures later."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

from cachetools import TTLCache

from imagegen_core.engine import Ticket
from imagegen_core.job import Done
from imagegen_core.picture_files.input_picture import InputPicture
from imagegen_core.server.errors import ConflictError, NotFoundError
from imagegen_core.server.schemas import Result

_LEAST = 4096  # bytes of a job without its pictures


class Promise(NamedTuple):
    """An idempotency key, with its request.

    Attributes:
        caller: The name of the API key's owner.
        key: The idempotency key.
        digest: The SHA-256 digest of the request's body.
    """

    caller: str
    key: str
    digest: bytes

    @classmethod
    def of(cls, caller: str, key: str, body: bytes) -> Self:
        """Return the promise for a request with this body."""
        return cls(caller, key, hashlib.sha256(body).digest())


@dataclass(eq=False)
class PostedJob:
    """A posted job.

    Attributes:
        caller: The job's owner; other callers cannot see the job.
        ticket: The engine's ticket.
        result: The final picture, after any enlargement.
        promise: The idempotency key of the post, if any.
    """

    caller: str
    ticket: Ticket
    result: asyncio.Future[Result]
    promise: Promise | None = None

    @property
    def id(self) -> str:
        """The job's name in the routes."""
        return self.ticket.job.id

    @property
    def size(self) -> int:
        """The approximate size in bytes of a finished job, with its input pictures."""
        pictures = [done.picture.png for done in [self.ticket.events.latest(Done)] if done]
        if not self.result.cancelled() and self.result.exception() is None:
            pictures.append(self.result.result().data)
        request = self.ticket.job.req
        pictures += [picture.data for picture in (request.image, request.mask) if isinstance(picture, InputPicture)]
        # Both pictures can be the same object: count it only once.
        return _LEAST + sum({id(picture): len(picture) for picture in pictures}.values())


class Jobs:
    """All jobs in progress, and the finished jobs within limits of number, age and size."""

    def __init__(self, limit: int, seconds: float, size: int) -> None:
        """Create an empty store of jobs.

        Args:
            limit: Maximum number of finished jobs.
            seconds: Lifetime of a finished job.
            size: Maximum size in bytes of all finished jobs. The last finished job is always kept.
        """
        self._limit = limit
        self._open: dict[str, PostedJob] = {}
        self._ended: TTLCache[str, PostedJob] = TTLCache(size, seconds, getsizeof=lambda job: min(job.size, size))
        self._lock = threading.Lock()

    def find(self, job_id: str, caller: str) -> PostedJob:
        """Return the job with this id.

        Raises:
            NotFoundError: The caller has no such job, or has it no longer.
        """
        with self._lock:
            job = self._open.get(job_id) or self._ended.get(job_id)
        if job is None or job.caller != caller:
            raise NotFoundError(f"There is no job {job_id[:64]!r}, or no longer: post it again")
        return job

    def post(self, make: Callable[[], PostedJob], promise: Promise | None = None) -> PostedJob:
        """Create a job, or return the earlier job with the same idempotency key and body.

        As in Stripe's API, this includes failed and cancelled jobs. An expired job is created again:
        https://docs.stripe.com/api/idempotent_requests.

        Raises:
            ConflictError: The key was used with another body.
        """
        if promise is not None and (job := self._promised(promise)) is not None:
            return job
        job = make()
        with self._lock:
            self._open[job.id] = job
        job.result.add_done_callback(lambda _: self._settle(job))
        return job

    def open(self) -> list[PostedJob]:
        """Return the jobs in progress."""
        with self._lock:
            return list(self._open.values())

    def _promised(self, promise: Promise) -> PostedJob | None:
        with self._lock:
            ended = [self._ended.get(job_id) for job_id in self._ended]  # None if a job expires just now
            jobs = [job for job in (*self._open.values(), *ended) if job is not None]
        for job in jobs:
            if job.promise is None or job.promise[:2] != promise[:2]:
                continue
            if job.promise.digest != promise.digest:
                raise ConflictError("This Idempotency-Key came with another request before: use a new one")
            return job
        return None

    def _settle(self, job: PostedJob) -> None:
        job.ticket.events.forget_previews()
        if not job.result.cancelled():
            job.result.exception()  # mark the error as retrieved, so that asyncio does not log it
        with self._lock:
            self._ended[job.id] = self._open.pop(job.id)
            while len(self._ended) > self._limit:
                self._ended.popitem()
