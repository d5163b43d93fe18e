"""Jobs that are posted now and fetched later."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from cachetools import TTLCache

from imagegen_core.engine import Ticket
from imagegen_core.job import Done
from imagegen_core.server.errors import ConflictError, NotFoundError
from imagegen_core.server.schemas import Result

_LEAST = 4096  # bytes that a job takes beside its pictures


class Promise(NamedTuple):
    """An idempotency key, and the request that it came with.

    Attributes:
        caller: Whose key it is.
        key: The key.
        digest: Of the request's body.
    """

    caller: str
    key: str
    digest: bytes

    @classmethod
    def of(cls, caller: str, key: str, body: bytes) -> Self:
        """The promise that a request with this body makes."""
        return cls(caller, key, hashlib.sha256(body).digest())


@dataclass(eq=False)
class PostedJob:
    """One of them.

    Attributes:
        caller: Whose it is; nobody else sees it.
        ticket: Its place in the engine.
        result: The picture as it was asked for, enlarged where it was to be.
        promise: The idempotency key it was posted with, if any.
        id: What its routes call it.
    """

    caller: str
    ticket: Ticket
    result: asyncio.Future[Result]
    promise: Promise | None = None
    id: str = field(default_factory=lambda: f"job-{secrets.token_hex(12)}")

    @property
    def size(self) -> int:
        """About how many bytes a job that has ended takes."""
        pictures = [done.picture.png for done in [self.ticket.events.latest(Done)] if done]
        if not self.result.cancelled() and self.result.exception() is None:
            pictures.append(self.result.result().data)
        return _LEAST + sum({id(picture): len(picture) for picture in pictures}.values())  # each once


class Jobs:
    """The jobs there are: all that are in the making, and those that have ended, for a time and within limits."""

    def __init__(self, limit: int, seconds: float, size: int) -> None:
        """There are none yet.

        Args:
            limit: How many are kept of those that have ended.
            seconds: For how long.
            size: How many bytes they take together; the last that ended is kept, however large.
        """
        self._limit = limit
        self._open: dict[str, PostedJob] = {}
        self._ended: TTLCache[str, PostedJob] = TTLCache(size, seconds, getsizeof=lambda job: min(job.size, size))
        self._lock = threading.Lock()

    def find(self, job_id: str, caller: str) -> PostedJob:
        """The job of that id.

        Raises:
            NotFoundError: The caller has none of that id, or no longer.
        """
        with self._lock:
            job = self._open.get(job_id) or self._ended.get(job_id)
        if job is None or job.caller != caller:
            raise NotFoundError(f"There is no job {job_id[:64]!r}, or no longer: post it again")
        return job

    def post(self, make: Callable[[], PostedJob], promise: Promise | None = None) -> PostedJob:
        """Make a job, or find the one that was posted with the same idempotency key and body.

        As in Stripe's API, a job that failed or was cancelled is found, too, and one that is no longer kept is made
        anew: https://docs.stripe.com/api/idempotent_requests.

        Raises:
            ConflictError: The key came with another body before.
        """
        if promise is not None and (job := self._promised(promise)) is not None:
            return job
        job = make()
        with self._lock:
            self._open[job.id] = job
        job.result.add_done_callback(lambda _: self._settle(job))
        return job

    def open(self) -> list[PostedJob]:
        """Those in the making."""
        with self._lock:
            return list(self._open.values())

    def _promised(self, promise: Promise) -> PostedJob | None:
        with self._lock:
            ended = [self._ended.get(job_id) for job_id in self._ended]  # None where one goes at this moment
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
            job.result.exception()  # so that asyncio does not report an error that nobody fetched
        with self._lock:
            self._ended[job.id] = self._open.pop(job.id)
            while len(self._ended) > self._limit:
                self._ended.popitem()
