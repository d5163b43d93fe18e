"""The engine of one worker: a request queue, and a thread that steps jobs in batches."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, Self, cast

from imagegen_core.engine.batch_scheduler import ActiveJob, BatchScheduler, Group
from imagegen_core.engine.batch_sizes import BatchSizes
from imagegen_core.engine.beginning import Beginning
from imagegen_core.engine.delivery import Delivery, Process, fail
from imagegen_core.engine.releasing import release
from imagegen_core.engine.report import EngineReport
from imagegen_core.engine.request_queue import RequestQueue
from imagegen_core.engine.ticket import TakeOver, Ticket
from imagegen_core.engine.verdicts import VerdictCache
from imagegen_core.engine.watchdog import Watchdog
from imagegen_core.engine.whole_job_worker import WholeJobWorker
from imagegen_core.errors import InvalidRequestError, OutOfMemoryError
from imagegen_core.job import Started, StepDone
from imagegen_core.request import GenerateRequest
from imagegen_core.worker import (
    Arguments,
    BatchInvariant,
    DenoisingState,
    HandsOver,
    HasComputeThread,
    Result,
    ShowsPreviews,
    SteppedWorker,
    WarmsUp,
    Worker,
)

logger = logging.getLogger(__name__)

_RUNNING = 64  # maximum number of jobs in progress, because each holds an embedded prompt
_BEGUN_AT_ONCE = 4  # jobs to begin between two steps, so that running jobs continue
_PARTS_AT_ONCE = 16  # parts of each of these jobs between two steps: most of an image, or of a prompt


class LocalEngine:
    """Draw requests with one worker, several pictures at a time if this is faster.

    Requests join and leave between denoising steps. In ``exact`` batching, a picture's bytes do not depend on other
    requests: they equal those of the worker alone. A worker without steps draws one job at a time.

    Only the engine may use the worker; use `compute` for other computations. The engine works with threads and
    coroutines::

        with LocalEngine(load_worker()) as engine:
            tickets = [engine.submit(request) for request in requests]
            pictures = [ticket.result() for ticket in tickets]

    Attributes:
        worker: The worker.
        is_broken: Whether the engine has stopped after an internal error.
        process: Changes each finished picture of a request; None changes none. It runs on threads of its own.
    """

    def __init__(
        self,
        worker: Worker,
        *,
        batching: Literal["exact", "fast"] = "exact",
        queue_limit: int = 256,
        step_limit: float = 120.0,
        previews: bool = False,
        queue: RequestQueue | None = None,
    ) -> None:
        """Calibrate the batches of the worker, and start the engine's thread.

        Args:
            worker: The worker; from now on only this engine uses it.
            batching: ``exact``, or ``fast`` to share forward passes even if pictures change slightly.
            queue_limit: Maximum number of jobs in the queue.
            step_limit: Seconds after which a step is reported to hang.
            previews: Whether each step's event carries a preview of the picture.
            queue: A queue shared with other engines, with its own limit; see `Pool`.
        """
        self.worker = worker
        self._worker: SteppedWorker[Any] = worker if isinstance(worker, SteppedWorker) else WholeJobWorker(worker)
        self._batching = batching
        self._previews = previews
        stepped = isinstance(worker, SteppedWorker)
        self._preview = worker.preview if previews and stepped and isinstance(worker, ShowsPreviews) else None
        self._queue = RequestQueue(queue_limit) if queue is None else queue
        self._scheduler = BatchScheduler()
        self._beginning: deque[Beginning] = deque()
        self._verdicts = VerdictCache(worker)
        self._steps: Counter[int] = Counter()
        self._step_seconds = self._latest_step = 0.0
        self._lock = threading.Lock()  # guards the fields that `report` reads
        self.is_broken = False
        self.process: Process | None = None
        if isinstance(worker, WarmsUp):
            worker.warm_up()
        self._sizes = BatchSizes(self._worker, self._verdicts, exact=batching == "exact")
        self._watchdog = Watchdog(step_limit)
        self._delivery = Delivery(_RUNNING)
        self._queue.serve(self)
        self._thread = threading.Thread(target=self._work, name="imagegen-engine", daemon=True)
        self._thread.start()

    def submit(
        self,
        request: GenerateRequest,
        deadline: float | None = None,
        priority: int = 0,
        take_over: TakeOver | None = None,
    ) -> Ticket:
        """Queue a request.

        Args:
            request: A `GenerateRequest`, or any object with its attributes.
            deadline: Time limit in seconds from now; None sets no limit.
            priority: Higher is served first, regardless of arrival.
            take_over: Takes the ticket of a request with a refiner after the steps before it: `take_over` of the
                refiner's engine. None refuses such requests.

        Raises:
            InvalidRequestError: No worker could draw the request.
            QueueFullError: The queue is full.
            EngineClosedError: The engine is closed.
        """
        return self._queue.submit(request, deadline, priority, take_over)

    def take_over(self, ticket: Ticket, half_drawn: Any) -> None:
        """Go on as the refiner with a picture of another engine, which keeps its ticket.

        Args:
            ticket: The ticket.
            half_drawn: The picture without its last steps; see `HandsOver`.

        Raises:
            EngineClosedError: The engine is closed.
        """
        ticket.go_on(half_drawn)
        self.admit(ticket)

    def admit(self, ticket: Ticket) -> None:
        """Queue an existing ticket regardless of the queue's limit.

        Raises:
            EngineClosedError: The engine is closed.
        """
        self._queue.admit(ticket)

    @property
    def workers(self) -> Sequence[Worker]:
        """The worker in a list; a `Pool` has several."""
        return [self.worker]

    def compute(self, function: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
        """Run another computation, such as an upscaler's network, between the worker's steps; see `compute_on`."""
        return compute_on(self.worker, function, *arguments)

    def report(self) -> EngineReport:
        """Return the engine's state and counters."""
        counts = self._queue.counts
        with self._lock:
            return EngineReport(
                batching=self._batching,
                because=self._sizes.because,
                groups=self._sizes.reports(),
                running=self._running,
                steps=dict(self._steps),
                step_seconds=self._step_seconds,
                stuck=self._watchdog.stuck,
                broken=int(self.is_broken),
                **counts._asdict(),
            )

    def close(self, *, drain: bool = True) -> None:
        """Finish all requests and stop; without `drain`, stop after the current step and cancel the rest."""
        self._queue.close(drain=drain)
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._delivery.close(drain=drain)
        self._watchdog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the engine; on an exception, cancel the open requests instead of finishing them."""
        self.close(drain=kind is None)

    def _work(self) -> None:
        try:
            while (arrived := self._queue.take(self, self._room, busy=self._running > 0)) is not None:
                self._drop_running()
                for ticket in arrived:
                    self._arrive(ticket)
                self._begin_some()
                if group := self._scheduler.next():
                    self._step(group)
        except Exception as error:
            logger.exception("The engine broke")
            self._break(error)

    def _room(self) -> int:
        """Return how many jobs may begin now; with a shared queue, only enough to fill this engine's batches."""
        if isinstance(self._worker, WholeJobWorker):
            return 1 - self._running
        if not self._queue.is_shared:
            return min(_BEGUN_AT_ONCE, _RUNNING - self._running)
        batch = max((group.size.limit for group in self._scheduler.groups()), default=self._sizes.native.limit)
        half = -(-batch // 2)
        return max(0, min(_BEGUN_AT_ONCE, batch + half - self._scheduler.rows - len(self._beginning)))

    @property
    def _running(self) -> int:
        return self._scheduler.count + len(self._beginning)

    def _arrive(self, ticket: Ticket) -> None:
        is_part = ticket.take_over is not None or ticket.job.half_drawn is not None
        if is_part and not isinstance(self.worker, HandsOver):
            name = type(self.worker).__name__
            ticket.fail(InvalidRequestError(f"Invalid refiner: {name} draws whole pictures; leave it out", "refiner"))
            return
        running = ActiveJob(ticket)
        ticket.job.on_step = lambda done: self._tell_step(running, done)
        ticket.job.wants_previews = self._previews
        self._beginning.append(Beginning(running, self._worker))

    def _begin_some(self) -> None:
        """Run parts of jobs' beginnings, for the time of a step if other jobs wait for their next step."""
        end = time.monotonic() + self._latest_step if self._scheduler.count else math.inf
        for _ in range(min(_BEGUN_AT_ONCE, len(self._beginning))):
            self._begin(self._beginning.popleft(), end)
            if time.monotonic() >= end:
                return

    def _begin(self, beginning: Beginning, end: float) -> None:
        """Run the next parts of a job's beginning, until a time; requeue the job if parts are left."""
        running, ticket = beginning.running, beginning.running.ticket
        has_begun = False
        try:
            with self._watchdog.watching("Beginning a picture"):
                has_begun = beginning.advance(_PARTS_AT_ONCE, end)
            key = self._worker.group(running.state) if has_begun else None
        except Exception as error:  # noqa: BLE001 - any error fails only this job
            fail(ticket, error)
        if ticket.done:
            ticket.job.on_step = None
            release(self.worker, [running.state] if has_begun else ())
            return
        if not has_begun:
            self._beginning.append(beginning)
            return
        size = self._sizes.of(key, running.state)
        with self._lock:
            self._scheduler.join(running, key, size)
        if ticket.job.half_drawn is None:
            ticket.events.append(Started())

    def _step(self, group: Group) -> None:
        began = time.monotonic()
        chosen = group.batch(began)
        self._advance(group, chosen)
        half_drawn: list[tuple[Ticket, Any]] = []
        for job in chosen:
            if job.state.failure is not None:
                fail(job.ticket, job.state.failure)
            elif not job.state.steps_left and not job.ticket.done:
                if job.ticket.take_over is None:
                    self._finish(job)
                else:
                    half_drawn += self._half_drawn(job)
        group.deficit -= time.monotonic() - began
        left = [job for job in chosen if not job.state.failure and job.state.steps_left]
        self._leave(group, [job for job in chosen if job.state.failure or not job.state.steps_left])
        for job in left:
            if _stage(job.state) != job.stage:
                self._regroup(group, job)
        for ticket, picture in half_drawn:  # only now, because the next engine sets the job's callbacks
            self._hand_over(ticket, picture)

    def _regroup(self, group: Group, job: ActiveJob) -> None:
        """Move a job to the group of its new stage."""
        job.stage = _stage(job.state)
        key = self._worker.group(job.state)
        size = self._sizes.of(key, job.state)
        with self._lock:
            self._scheduler.leave(group, [job])
            self._scheduler.join(job, key, size)

    def _advance(self, group: Group, chosen: Sequence[ActiveJob]) -> None:
        """Take one step of a batch; if it fails, step each job alone."""
        states = [job.state for job in chosen]
        rows = sum(state.rows for state in states)
        began = time.monotonic()
        try:
            with self._watchdog.watching(f"A step of {rows} rows ({group.key})"):
                if group.size.needs_trial(rows, len(states)) and isinstance(self._worker, BatchInvariant):
                    same = self._worker.trial(states)
                    if any(state.failure is None for state in states):  # failed states prove nothing
                        group.size.tried(rows, same=same)
                        self._verdicts.keep(group.key, group.size)
                else:
                    self._worker.step(states)
                    group.size.timed(rows, time.monotonic() - began)
            self._count_step(rows, time.monotonic() - began)
        except Exception as error:  # noqa: BLE001 - it may belong to one job, and the others continue
            if len(chosen) == 1:
                states[0].failure = error
                return
            if isinstance(error, OutOfMemoryError):
                logger.warning("A step of %d rows ran out of memory: no more than %d for a time", rows, rows // 2)
                group.size.halve(rows)
                return
            for job in chosen:
                self._advance(group, [job])

    def _count_step(self, rows: int, seconds: float) -> None:
        with self._lock:
            self._steps[rows] += 1
            self._step_seconds += seconds
        self._latest_step = seconds

    def _finish(self, job: ActiveJob) -> None:
        try:
            with self._watchdog.watching("Decoding a picture"):
                encode = self._worker.finish(job.state)
            job.is_finished = True
        except Exception as error:  # noqa: BLE001 - any error fails only this job
            fail(job.ticket, error)
            return
        self._delivery.deliver(job.ticket, encode, self.process)

    def _half_drawn(self, job: ActiveJob) -> list[tuple[Ticket, Any]]:
        """Return a job's ticket with its half-drawn picture, or nothing after an error."""
        worker: Any = self._worker
        try:
            picture = worker.hand_over(job.state)
        except Exception as error:  # noqa: BLE001 - any error fails only this job
            fail(job.ticket, error)
            return []
        job.is_finished = True
        return [(job.ticket, picture)]

    def _hand_over(self, ticket: Ticket, picture: Any) -> None:
        """Give a half-drawn picture to its refiner's engine."""
        self._queue.let_go(ticket)
        try:
            cast("TakeOver", ticket.take_over)(ticket, picture)
        except Exception as error:  # noqa: BLE001 - any error fails only this job
            fail(ticket, error)

    def _tell_step(self, running: ActiveJob, done: StepDone) -> None:
        self._watchdog.progress()
        given = done.preview if self._previews else None
        preview = self._preview(running.state) if self._preview else given
        running.ticket.events.append(replace(done, preview=preview))

    def _drop_running(self) -> None:
        """Remove jobs that were cancelled or are late."""
        now = time.monotonic()
        for group in self._scheduler.groups():
            self._leave(group, [job for job in group.members if job.ticket.expire(now)])
        given_up = [beginning for beginning in self._beginning if beginning.running.ticket.expire(now)]
        for beginning in given_up:
            self._beginning.remove(beginning)
            beginning.running.ticket.job.on_step = None

    def _leave(self, group: Group, gone: Sequence[ActiveJob]) -> None:
        with self._lock:
            self._scheduler.leave(group, gone)
        release(self.worker, [job.state for job in gone if not job.is_finished])
        for job in gone:
            job.ticket.job.on_step = None
            del job.state  # a kept ticket must not keep its memory

    def _break(self, error: Exception) -> None:
        """Mark the engine as broken, and fail the tickets that depend on it."""
        self.is_broken = True
        self._queue.give_up(self, f"The engine broke ({error!r}): restart it, and report this")
        release(self.worker, [job.state for group in self._scheduler.groups() for job in group.members])


def _stage(state: DenoisingState) -> int:
    """Return the number that grows when a state's group changes; the group of other states never changes."""
    return int(getattr(state, "stage", 0))


def compute_on(worker: Worker, function: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
    """Run `function` on the worker's own thread if it has one, else in this thread."""
    return worker.compute(function, *arguments) if isinstance(worker, HasComputeThread) else function(*arguments)
