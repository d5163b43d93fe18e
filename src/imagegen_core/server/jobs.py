"""Jobs that are posted now and fetched later."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from cachetools import TTLCache

from imagegen_core.engine import Ticket
from imagegen_core.server.errors import ConflictError, NotFoundError
from imagegen_core.server.results import Result


@dataclass(eq=False)
class PostedJob:
    """One of them.

    Attributes:
        caller: Whose it is; nobody else sees it.
        ticket: Its place in the engine.
        result: The picture as it was asked for, enlarged where it was to be.
        id: What its routes call it.
    """

    caller: str
    ticket: Ticket
    result: asyncio.Future[Result]
    id: str = field(default_factory=lambda: f"job-{secrets.token_hex(12)}")


@dataclass(frozen=True, slots=True)
class _Promise:
    digest: bytes
    job_id: str


class Jobs:
    """The jobs there are: those in the making all of them, those that are done for a time and up to a number."""

    def __init__(self, limit: int, seconds: float) -> None:
        """None yet; of those that are done, `limit` are kept for `seconds`."""
        self._open: dict[str, PostedJob] = {}
        self._done: TTLCache[str, PostedJob] = TTLCache(limit, seconds)
        self._promises: TTLCache[tuple[str, str], _Promise] = TTLCache(2 * limit, seconds)
        self._lock = threading.Lock()

    def find(self, job_id: str, caller: str) -> PostedJob:
        """The job of that id.

        Raises:
            NotFoundError: The caller has none of that id, or no longer.
        """
        with self._lock:
            job = self._open.get(job_id) or self._done.get(job_id)
        if job is None or job.caller != caller:
            raise NotFoundError(f"There is no job {job_id[:64]!r}, or no longer: post it again")
        return job

    def post(self, make: Callable[[], PostedJob], caller: str, idempotency_key: str | None, body: bytes) -> PostedJob:
        """Make a job, or find the one that the same key and body made before.

        Raises:
            ConflictError: The key came with another body before.
        """
        promised = (caller, idempotency_key or "")
        digest = hashlib.sha256(body).digest()
        if idempotency_key and (promise := self._promises.get(promised)):
            if promise.digest != digest:
                raise ConflictError("This Idempotency-Key came with another request before: use a new one")
            return self.find(promise.job_id, caller)
        job = make()
        if idempotency_key:
            self._promises[promised] = _Promise(digest, job.id)
        with self._lock:
            self._open[job.id] = job
        job.result.add_done_callback(lambda _: self._settle(job))
        return job

    def open(self) -> list[PostedJob]:
        """Those in the making."""
        with self._lock:
            return list(self._open.values())

    def _settle(self, job: PostedJob) -> None:
        if not job.result.cancelled():
            job.result.exception()  # retrieved, as nobody may ask for the job
        with self._lock:
            self._done[job.id] = self._open.pop(job.id)
