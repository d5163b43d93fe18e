"""Several engines with one queue: distribution, order, limits, closing and failures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from imagegen_core import (
    Cancelled,
    DeadlineError,
    Done,
    EngineClosedError,
    Job,
    LocalEngine,
    Picture,
    Queued,
    QueueFullError,
    Settings,
    Started,
)
from imagegen_core.engine import Pool
from imagegen_core.engine.batch_size import SIZES
from imagegen_core.engine.request_queue import RequestQueue
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.engine.conftest import StartEngine, ask
from tests.engine.faults import Gate, Watched

LIMIT = 60  # maximum seconds that a test waits


class Plain:
    """A worker without steps, whose pictures are their prompts; `gate` blocks it."""

    worker_id = 0

    def __init__(self, *, held: bool = False) -> None:
        self.drawn: list[str] = []
        self.gate = Gate(shut=held)
        self.computed: list[Any] = []

    def run_job(self, job: Job) -> tuple[bytes, int]:
        return self.run_job_with_latents(job)[:2]

    def run_job_with_latents(self, job: Job) -> tuple[bytes, int, bytes]:
        self.gate()
        self.drawn.append(job.req.prompt)
        return job.req.prompt.encode(), 7, b"latents"

    def compute(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self.computed.append(arguments)
        return function(*arguments)


@dataclass(eq=False)
class State:
    job: Job
    steps_left: int
    rows: int = 1
    failure: Exception | None = None


class Stepped(Plain):
    """A worker with steps; `step_gate` blocks them."""

    def __init__(self, *, held: bool = False) -> None:
        super().__init__()
        self.live = self.most_live = self.most_together = 0
        self.step_gate = Gate(shut=held)

    def begin(self, job: Job) -> State:
        self.live += job.req.prompt != "a test"
        self.most_live = max(self.live, self.most_live)
        return State(job, job.req.num_inference_steps)

    def group(self, state: State) -> str:
        return "all"

    def step(self, states: Sequence[State]) -> None:
        if states[0].job.req.prompt != "a test":
            self.step_gate()
            self.most_together = max(self.most_together, len(states))
        for state in states:
            state.steps_left -= 1

    def finish(self, state: State) -> Callable[[], Picture]:
        self.live -= 1
        self.drawn.append(state.job.req.prompt)
        return lambda: Picture(state.job.req.prompt.encode(), 7, b"latents")


StartPool = Callable[..., Pool]


@pytest.fixture
def start_pool() -> Iterator[StartPool]:
    """Start pools; after the test, close them and cancel their open requests."""
    with ExitStack() as stack:

        def start(*workers: Any, **options: Any) -> Pool:
            pool = Pool(workers, **options)
            stack.callback(pool.close, drain=False)
            for worker in workers:
                if isinstance(worker, Plain):
                    stack.callback(worker.gate.open)
            return pool

        yield start


def _hold_up(pool: Pool, *workers: Plain) -> list[Any]:
    """Submit a request for each of the blocked workers, and wait until they draw."""
    tickets = [pool.submit(ask("first")) for _ in workers]
    for worker in workers:
        assert worker.gate.reached.wait(LIMIT)
    return tickets


def _finish(tickets: Sequence[Any], count: int) -> None:
    """Wait until `count` of the tickets are done."""
    done = as_completed([ticket.job.fut for ticket in tickets], LIMIT)
    for _ in range(count):
        next(done).result()


def _until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds; reports change a moment after a picture is done."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        threading.Event().wait(0.001)


def _places(ticket: Any) -> list[int]:
    return [event.place for event in ticket.events if isinstance(event, Queued)]


def test_a_quick_engine_takes_all_requests_while_a_slow_engine_is_busy(start_pool: StartPool) -> None:
    slow, quick = Plain(held=True), Plain(held=True)
    pool = start_pool(slow, quick)
    running = _hold_up(pool, slow, quick)
    tickets = [pool.submit(ask(f"{number}")) for number in range(20)]
    quick.gate.open()
    assert [ticket.result(LIMIT).png for ticket in tickets] == [f"{number}".encode() for number in range(20)]
    assert (len(slow.drawn), len(quick.drawn)) == (0, 21)
    slow.gate.open()
    _finish(running, 2)
    assert len(slow.drawn) == 1


def test_idle_engines_take_requests_first(start_pool: StartPool) -> None:
    workers = Stepped(held=True), Stepped(held=True), Stepped(held=True)
    pool = start_pool(*workers)
    _until(lambda: pool._queue._idle == len(workers))  # until their threads wait
    tickets = [pool.submit(ask()) for _ in workers]
    for worker in workers:
        assert worker.step_gate.reached.wait(LIMIT)
    assert [worker.live for worker in workers] == [1, 1, 1]
    for worker in workers:
        worker.step_gate.open()
    _finish(tickets, 3)


def test_a_busy_engine_leaves_requests_to_idle_engines_and_these_share() -> None:
    queue = RequestQueue(9)
    for number in range(7):
        queue.submit(ask(f"{number}"), None, 0)
    queue._idle = 2  # engines that wait in `take`

    def take(busy: bool) -> list[str]:
        return [ticket.job.req.prompt for ticket in queue.take(object(), lambda: 9, busy=busy) or ()]

    assert take(busy=True) == ["0", "1", "2", "3", "4"]
    assert take(busy=True) == []
    assert take(busy=False) == ["5"]


def test_requests_are_ordered_across_the_whole_pool(start_pool: StartPool) -> None:
    quick, slow = Plain(held=True), Plain(held=True)
    pool = start_pool(quick, slow)
    running = _hold_up(pool, quick, slow)
    submissions = (("a", 0), ("b", 5), ("c", 5), ("d", -1))
    tickets = [pool.submit(ask(prompt), priority=priority) for prompt, priority in submissions]
    quick.gate.open()
    for ticket in tickets:
        ticket.result(LIMIT)
    assert quick.drawn == ["first", "b", "c", "a", "d"]
    assert slow.drawn == []
    slow.gate.open()
    for ticket in running:
        ticket.result(LIMIT)
    assert [_places(ticket) for ticket in tickets] == [[1, 2, 3, 2, 1], [1], [2, 1], [4, 3, 2, 1]]


def test_a_cancelled_request_leaves_the_queue_at_once(start_pool: StartPool) -> None:
    quick, slow = Plain(held=True), Plain(held=True)
    pool = start_pool(quick, slow)
    _hold_up(pool, quick, slow)
    second, third = pool.submit(ask("second")), pool.submit(ask("third"))
    assert second.cancel()
    assert (pool.report().waiting, pool.report().cancelled, pool.report().running) == (1, 1, 2)
    quick.gate.open()
    third.result(LIMIT)
    assert list(second.events) == [Queued(1), Cancelled()]
    assert list(third.events) == [Queued(2), Queued(1), Started(), Done(third.result())]
    assert "second" not in quick.drawn


def test_a_late_request_fails_in_the_queue(start_pool: StartPool) -> None:
    quick, slow = Plain(held=True), Plain(held=True)
    pool = start_pool(quick, slow)
    _hold_up(pool, quick, slow)
    late, patient = pool.submit(ask("late"), deadline=0), pool.submit(ask("patient"), deadline=600)
    quick.gate.open()
    assert patient.result(LIMIT).png == b"patient"
    with pytest.raises(DeadlineError, match="not done 0 s after it was asked for"):
        late.result(LIMIT)
    assert quick.drawn == ["first", "patient"]


def test_the_queue_has_one_limit_and_refuses_with_a_retry_time(start_pool: StartPool) -> None:
    quick, slow = Plain(held=True), Plain(held=True)
    pool = start_pool(quick, slow, queue_limit=2)
    running = _hold_up(pool, quick, slow)
    waiting = [pool.submit(ask()) for _ in range(2)]
    with pytest.raises(QueueFullError, match="2 requests wait already: try again in 1 s") as caught:
        pool.submit(ask())
    assert caught.value.retry_after == 1
    quick.gate.open()
    _finish([*running, *waiting], 3)
    slow.gate.open()
    _finish([*running, *waiting], 4)
    for worker in (quick, slow):
        worker.gate.shut()
    _hold_up(pool, quick, slow)
    waiting = [pool.submit(ask()) for _ in range(2)]
    with pytest.raises(QueueFullError) as caught:
        pool.submit(ask())
    assert caught.value.retry_after not in (0, 1)  # measured by now


def test_admitted_tickets_may_exceed_the_queue_limit(start_pool: StartPool, start: StartEngine) -> None:
    quick, slow = Plain(held=True), Plain(held=True)
    pool = start_pool(quick, slow, queue_limit=2)
    _hold_up(pool, quick, slow)
    for _ in range(2):
        pool.submit(ask())
    source = Plain(held=True)
    engine = start(source)
    ticket = engine.submit(ask("moved"))
    pool.admit(ticket)
    assert pool.report().waiting == 3
    source.gate.open()


def test_closing_finishes_open_requests() -> None:
    workers = Plain(held=True), Plain(held=True)
    pool = Pool(workers)
    tickets = [pool.submit(ask()) for _ in range(9)]
    closing = threading.Thread(target=pool.close)
    closing.start()
    for worker in workers:
        worker.gate.open()
    closing.join(LIMIT)
    assert all(ticket.result(0) for ticket in tickets)
    with pytest.raises(EngineClosedError, match="closed"):
        pool.submit(ask())


def test_closing_without_draining_cancels_open_requests() -> None:
    quick, slow = Plain(held=True), Plain(held=True)
    pool = Pool((quick, slow))
    tickets = [*_hold_up(pool, quick, slow), *(pool.submit(ask("more")) for _ in range(3))]
    closing = threading.Thread(target=pool.close, kwargs={"drain": False})
    closing.start()
    for ticket in tickets:
        with pytest.raises(CancelledError):
            ticket.result(LIMIT)
    for worker in (quick, slow):
        worker.gate.open()
    closing.join(LIMIT)
    assert not closing.is_alive()
    assert [quick.drawn, slow.drawn] == [["first"], ["first"]]


def test_a_broken_engine_fails_only_the_request_it_took(start_pool: StartPool, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, sound = Plain(held=True), Plain(held=True)
    pool = start_pool(broken, sound)
    running = _hold_up(pool, broken, sound)
    waiting = [pool.submit(ask(f"{number}")) for number in range(6)]

    def break_down(_: Any) -> None:
        _finish(running, 1)
        raise ZeroDivisionError

    first, second = pool._engines
    monkeypatch.setattr(first, "_step", break_down)  # for the next request that it takes
    broken.gate.open()
    with pytest.raises(EngineClosedError, match=r"The engine broke \(ZeroDivisionError.*restart it"):
        waiting[0].result(LIMIT)
    assert (first.is_broken, second.is_broken) == (True, False)
    assert pool.is_broken
    assert (pool.report().waiting, pool.report().broken) == (5, 1)
    sound.gate.open()
    assert [ticket.result(LIMIT).png for ticket in running] == [b"first", b"first"]
    assert [ticket.result(LIMIT).png for ticket in waiting[1:]] == [b"1", b"2", b"3", b"4", b"5"]
    assert pool.submit(ask("later")).result(LIMIT).png == b"later"
    assert broken.drawn == ["first"]
    sound.gate.shut()
    last = pool.submit(ask("last"))
    assert sound.gate.reached.wait(LIMIT)
    assert pool.compute(abs, -1) == 1
    sound.gate.open()
    assert last.result(LIMIT).png == b"last"
    assert (broken.computed, sound.computed) == ([], [(-1,)])


def test_all_requests_fail_if_all_engines_break(start_pool: StartPool, monkeypatch: pytest.MonkeyPatch) -> None:
    quick, slow = Plain(held=True), Plain(held=True)
    pool = start_pool(quick, slow)
    running = _hold_up(pool, quick, slow)
    waiting = [pool.submit(ask()) for _ in range(6)]
    for engine in pool._engines:
        monkeypatch.setattr(engine, "_step", lambda _: 1 / 0)
    for worker in (quick, slow):
        worker.gate.open()
    for ticket in waiting:
        with pytest.raises(EngineClosedError, match="The engine broke"):
            ticket.result(LIMIT)
    with pytest.raises(EngineClosedError):
        pool.submit(ask())
    assert all(ticket.job.fut.done() for ticket in running)
    _until(lambda: pool.report().waiting == 0)


def test_compute_uses_the_least_busy_engine(start_pool: StartPool) -> None:
    busy, idle = Plain(held=True), Plain(held=True)
    pool = start_pool(busy, idle)
    running = _hold_up(pool, busy, idle)
    idle.gate.open()
    _finish(running, 1)
    _until(lambda: pool.report().running == 1)
    assert pool.compute(max, 1, 2) == 2
    assert (busy.computed, idle.computed) == ([], [(1, 2)])


@pytest.mark.parametrize(("rows", "begun"), [(1, 2), (2, 3), (16, 24)])
def test_an_engine_of_a_pool_begins_one_and_a_half_batches(start_pool: StartPool, rows: int, begun: int) -> None:
    workers = Stepped(held=True), Stepped(held=True)
    pool = start_pool(*workers)
    for engine in pool._engines:
        size = engine._sizes.native  # as the self-test sets it on a device where batches of `rows` pay
        size.fits = size.rows = rows
        size.proven.update(SIZES)
    tickets = [pool.submit(ask(num_inference_steps=20)) for _ in range(70)]
    for worker in workers:
        assert worker.step_gate.reached.wait(LIMIT)
    quick, slow = workers
    quick.step_gate.open()
    _finish(tickets, 70 - slow.live)
    assert (quick.most_together, quick.most_live) == (rows, begun)
    assert slow.live <= begun
    slow.step_gate.open()


def test_a_single_engine_begins_as_many_requests_as_it_can(start: StartEngine) -> None:
    worker = Stepped(held=True)
    engine = start(worker)
    tickets = [engine.submit(ask(num_inference_steps=20)) for _ in range(70)]
    worker.step_gate.open()
    _finish(tickets, 70)
    assert worker.most_live == 64


def test_a_plain_worker_takes_one_job_at_a_time(start_pool: StartPool) -> None:
    pool = start_pool(Plain(), Plain())
    for ticket in [pool.submit(ask()) for _ in range(40)]:
        ticket.result(LIMIT)
    _until(lambda: pool.report().finished == 40)
    report = pool.report()
    assert report.steps == {1: 40}
    assert (report.waiting, len(report.groups)) == (0, 2)


def test_a_worker_that_fails_to_start_leaves_no_engine_behind() -> None:
    class Bad(Plain):
        def warm_up(self, on_step: Any = None) -> None:
            raise ZeroDivisionError

    before = _engine_threads()
    with pytest.raises(ZeroDivisionError):
        Pool((Plain(), Bad()))
    assert _engine_threads() <= before


def _engine_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "imagegen-engine"}


def test_pictures_equal_those_of_a_single_engine(start_pool: StartPool, sdxl_checkpoint: Path) -> None:
    settings = Settings(model=str(sdxl_checkpoint), device="cpu,cpu", dtype="fp32", recipe=False)
    workers = [Watched(DiffusersSDXLCudaWorker(settings=settings.for_device(number))) for number in range(2)]
    requests = [
        ask(
            seed=seed,
            num_inference_steps=2 + seed % 3,
            guidance_scale=1 + seed % 2,
            size=("64x64", "96x64")[seed % 5 > 3],
        )
        for seed in range(24)
    ]
    with LocalEngine(workers[0].worker) as single:
        expected = [ticket.result(LIMIT) for ticket in [single.submit(request) for request in requests]]
    pool = start_pool(*workers)
    for worker in workers:
        worker.batches.clear()
    tickets = [pool.submit(request) for request in requests]
    assert [ticket.result(LIMIT) for ticket in tickets] == expected
    assert all(worker.batches for worker in workers)
