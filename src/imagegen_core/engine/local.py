"""The engine of one worker: a queue before it, and a thread that steps its jobs together."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, Self

from imagegen_core.engine.batch_scheduler import ActiveJob, BatchScheduler, Group
from imagegen_core.engine.batch_size import BatchSize
from imagegen_core.engine.beginning import Beginning
from imagegen_core.engine.calibration import calibrate
from imagegen_core.engine.report import EngineReport, GroupReport
from imagegen_core.engine.request_queue import RequestQueue
from imagegen_core.engine.ticket import Ticket
from imagegen_core.engine.watchdog import Watchdog
from imagegen_core.engine.whole_job_worker import WholeJobWorker
from imagegen_core.errors import ImagegenError, OutOfMemoryError
from imagegen_core.job import Started, StepDone
from imagegen_core.picture import Picture
from imagegen_core.worker import Computing, MemoryAware, Previewing, SteppedWorker, WarmingUp, Worker

logger = logging.getLogger(__name__)

_RUNNING = 64  # jobs that have begun, at most: each holds its embedded prompt
_BEGUN_AT_ONCE = 4  # between two steps, so that those who are running go on
_PARTS_AT_ONCE = 4  # of each of them
_KNOWN_SHAPES = 64
_ENCODERS = 2


class LocalEngine:
    """Draws what it is asked for with one worker, several pictures at a time where that pays.

    Requests join and leave between denoising steps. In ``exact`` batching, a picture's bytes do not depend on what else
    was drawn: they are those that the worker draws alone. A worker that has no steps is served too, a job at a time.

    The engine is the worker's only user; what else is to compute goes through `compute`. It works from threads and from
    coroutines::

        with LocalEngine(load_worker()) as engine:
            tickets = [engine.submit(request) for request in requests]
            pictures = [ticket.result() for ticket in tickets]

    Attributes:
        worker: The worker.
        is_broken: Whether it draws no more, by a fault of its own.
    """

    def __init__(
        self,
        worker: Worker,
        *,
        batching: Literal["exact", "fast"] = "exact",
        queue_limit: int = 256,
        step_limit: float = 120.0,
        previews: bool = False,
        line: RequestQueue | None = None,
    ) -> None:
        """Test what the worker can do together, and start.

        Args:
            worker: The worker, used by nobody else from now on.
            batching: ``exact``, or ``fast`` to share forward passes also where that changes pictures a little.
            queue_limit: Jobs that may wait to begin.
            step_limit: Seconds after which a step is reported to hang.
            previews: Whether each step's event shows what the picture looks like so far.
            line: A queue that it shares with other engines, with a limit of its own; see `Pool`.
        """
        self.worker = worker
        self._worker: Any = worker if isinstance(worker, SteppedWorker) else WholeJobWorker(worker)
        self._batching = batching
        self._previews = previews and isinstance(worker, Previewing)
        self._line = RequestQueue(queue_limit) if line is None else line
        self._turns = BatchScheduler()
        self._beginning: deque[Beginning] = deque()
        self._sizes: OrderedDict[Hashable, BatchSize] = OrderedDict()
        self._steps: Counter[int] = Counter()
        self._step_seconds = 0.0
        self._lock = threading.Lock()  # of what `report` reads
        self.is_broken = False
        if isinstance(worker, WarmingUp):
            worker.warm_up()
        self._because = self._calibrate()
        self._watchdog = Watchdog(step_limit)
        self._encoders = ThreadPoolExecutor(_ENCODERS, thread_name_prefix="imagegen-encoder")
        self._line.serve(self)
        self._thread = threading.Thread(target=self._work, name="imagegen-engine", daemon=True)
        self._thread.start()

    def submit(self, request: Any, deadline: float | None = None, priority: int = 0) -> Ticket:
        """Put a request in line.

        Args:
            request: A `GenerateRequest`, or any object with its attributes.
            deadline: Seconds from now after which the picture is given up; None waits for it.
            priority: Higher goes first, whoever came before.

        Raises:
            InvalidRequestError: The request asks for what no worker could draw.
            QueueFullError: Too many wait already.
            EngineClosedError: The engine was closed.
        """
        return self._line.submit(request, deadline, priority)

    def admit(self, ticket: Ticket) -> None:
        """Put a ticket in line that was made before, whatever the line's length.

        Raises:
            EngineClosedError: The engine was closed.
        """
        self._line.admit(ticket)

    @property
    def workers(self) -> Sequence[Worker]:
        """The worker, where there could be several."""
        return [self.worker]

    def compute(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run something else that computes, such as an upscaler's network, where the worker does, between its steps."""
        return compute_on(self.worker, function, *arguments)

    def report(self) -> EngineReport:
        """What the engine does, and how."""
        counts = self._line.counts
        with self._lock:
            return EngineReport(
                batching=self._batching,
                because=self._because,
                groups=tuple(GroupReport.of(key, size) for key, size in self._sizes.items()),
                running=self._running,
                steps=dict(self._steps),
                step_seconds=self._step_seconds,
                stuck=self._watchdog.stuck,
                broken=int(self.is_broken),
                **counts._asdict(),
            )

    def close(self, *, drain: bool = True) -> None:
        """Stop: after all that was asked for, or, without `drain`, after the present step, cancelling the rest."""
        self._line.close(drain=drain)
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._encoders.shutdown()
        self._watchdog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, and finish what was asked for unless an exception is on its way."""
        self.close(drain=kind is None)

    def _work(self) -> None:
        try:
            while (arrived := self._line.take(self, self._room, busy=self._running > 0)) is not None:
                self._drop_running()
                for ticket in arrived:
                    self._arrive(ticket)
                for _ in range(min(_BEGUN_AT_ONCE, len(self._beginning))):
                    self._begin(self._beginning.popleft())
                if group := self._turns.next():
                    self._step(group)
        except Exception as error:
            logger.exception("The engine broke")
            self._break(error)

    def _room(self) -> int:
        """How many may begin now; beside other engines no more than fill batches, which another may begin sooner."""
        if not self._line.is_shared:
            return min(_BEGUN_AT_ONCE, _RUNNING - self._running)
        batch = max((group.size.limit for group in self._turns.groups()), default=self._native.limit)
        half = 0 if isinstance(self._worker, WholeJobWorker) else -(-batch // 2)
        return max(0, min(_BEGUN_AT_ONCE, batch + half - self._turns.rows - len(self._beginning)))

    @property
    def _running(self) -> int:
        return self._turns.count + len(self._beginning)

    def _arrive(self, ticket: Ticket) -> None:
        running = ActiveJob(ticket, None)
        ticket.job.on_step = lambda done: self._tell_step(running, done)
        self._beginning.append(Beginning(running, self._worker))

    def _begin(self, beginning: Beginning) -> None:
        """Go on with beginning a job; where parts are left, it is in line again for the time after the next step."""
        running, ticket = beginning.running, beginning.running.ticket
        try:
            with self._watchdog.watching("Beginning a picture"):
                has_begun = beginning.advance(_PARTS_AT_ONCE)
            key = self._worker.group(running.state) if has_begun else None
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this job's
            self._fail(ticket, error)
            ticket.job.on_step = running.state = None
            return
        if ticket.done:
            ticket.job.on_step = running.state = None
            return
        if not has_begun:
            self._beginning.append(beginning)
            return
        size = self._size(key, running.state)
        with self._lock:
            self._turns.join(running, key, size)
        ticket.events.append(Started())

    def _step(self, group: Group) -> None:
        began = time.monotonic()
        chosen = group.batch(began)
        self._advance(group, chosen)
        for one in chosen:
            if one.state.failure is not None:
                self._fail(one.ticket, one.state.failure)
            elif not one.state.steps_left and not one.ticket.done:
                self._finish(one)
        group.deficit -= time.monotonic() - began
        self._leave(group, [one for one in chosen if one.state.failure or not one.state.steps_left])

    def _advance(self, group: Group, chosen: Sequence[ActiveJob]) -> None:
        """Take one step together; what cannot be done together is tried again by each alone."""
        states = [one.state for one in chosen]
        rows = sum(state.rows for state in states)
        began = time.monotonic()
        try:
            with self._watchdog.watching(f"A step of {rows} rows ({group.key})"):
                if group.size.needs_trial(rows, len(states)):
                    same = self._worker.trial(states)
                    if any(state.failure is None for state in states):  # those that fail prove nothing
                        group.size.tried(rows, same=same)
                else:
                    self._worker.step(states)
                    group.size.timed(rows, time.monotonic() - began)
            self._count_step(rows, time.monotonic() - began)
        except Exception as error:  # noqa: BLE001 - it belongs to one of them, and the others go on
            if len(chosen) == 1:
                states[0].failure = error
                return
            if isinstance(error, OutOfMemoryError):
                logger.warning("A step of %d rows ran out of memory: no more than %d for a time", rows, rows // 2)
                group.size.halve(rows)
                return
            for one in chosen:
                self._advance(group, [one])

    def _count_step(self, rows: int, seconds: float) -> None:
        with self._lock:
            self._steps[rows] += 1
            self._step_seconds += seconds

    def _finish(self, one: ActiveJob) -> None:
        try:
            with self._watchdog.watching("Decoding a picture"):
                encode = self._worker.finish(one.state)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this job's
            self._fail(one.ticket, error)
            return
        self._encoders.submit(self._encode, one.ticket, encode)

    def _encode(self, ticket: Ticket, encode: Callable[[], Picture]) -> None:
        try:
            ticket.draw(encode())
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this job's
            self._fail(ticket, error)

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        if not isinstance(error, ImagegenError):
            logger.error("A picture failed: %r", error, exc_info=error)
        ticket.fail(error)

    def _tell_step(self, running: ActiveJob, done: StepDone) -> None:
        preview = self._worker.preview(running.state) if self._previews else None
        running.ticket.events.append(replace(done, preview=preview))

    def _drop_running(self) -> None:
        """Let go of those that were cancelled, or whose deadline is over."""
        now = time.monotonic()
        for group in self._turns.groups():
            self._leave(group, [one for one in group.members if one.ticket.expire(now)])
        given_up = [one for one in self._beginning if one.running.ticket.expire(now)]
        for one in given_up:
            self._beginning.remove(one)
            one.running.ticket.job.on_step = None

    def _leave(self, group: Group, gone: Sequence[ActiveJob]) -> None:
        with self._lock:
            self._turns.leave(group, gone)
        for one in gone:
            one.ticket.job.on_step = one.state = None  # whoever keeps the ticket does not keep the state's memory

    def _calibrate(self) -> str:
        size = BatchSize(exact=self._batching == "exact")
        key, because = calibrate(self._worker, size)
        self._sizes[key] = size
        self._native, self._largest = size, size.fits
        return because

    def _size(self, key: Hashable, state: Any) -> BatchSize:
        """What is known of a group's shape; of the shapes, the native one and those seen last are kept."""
        if key not in self._sizes:
            self._sizes[key] = BatchSize(exact=self._batching == "exact", fits=self._largest)
            if len(self._sizes) > _KNOWN_SHAPES:
                del self._sizes[next(known for known, size in self._sizes.items() if size is not self._native)]
        self._sizes.move_to_end(key)
        size = self._sizes[key]
        if isinstance(self._worker, MemoryAware):
            size.fits_now = self._worker.rows_that_fit(state)
        return size

    def _break(self, error: Exception) -> None:
        """Nothing will be drawn here any more: say so to all that wait for it."""
        self.is_broken = True
        self._line.give_up(self, f"The engine broke ({error!r}): restart it, and report this")


def compute_on(worker: Worker, function: Callable[..., Any], *arguments: Any) -> Any:
    """Run `function` where a worker computes: on its thread, where it has one."""
    return worker.compute(function, *arguments) if isinstance(worker, Computing) else function(*arguments)
