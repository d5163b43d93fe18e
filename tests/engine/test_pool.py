"""Several engines behind one line: who draws what, in which order, and what of it nobody notices."""

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

LIMIT = 60  # seconds that a test waits for what must come


class Plain:
    """A worker without steps, whose pictures are their prompts; `gate` holds it up."""

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
    """A worker with steps; `held` holds them up."""

    def __init__(self, *, held: bool = False) -> None:
        super().__init__()
        self.live = self.most_live = self.most_together = 0
        self.held = Gate(shut=held)

    def begin(self, job: Job) -> State:
        self.live += job.req.prompt != "a test"
        self.most_live = max(self.live, self.most_live)
        return State(job, job.req.num_inference_steps)

    def group(self, state: State) -> str:
        return "all"

    def step(self, states: Sequence[State]) -> None:
        if states[0].job.req.prompt != "a test":
            self.held()
            self.most_together = max(self.most_together, len(states))
        for state in states:
            state.steps_left -= 1

    def finish(self, state: State) -> Callable[[], Picture]:
        self.live -= 1
        self.drawn.append(state.job.req.prompt)
        return lambda: Picture(state.job.req.prompt.encode(), 7, b"latents")


StartPool = Callable[..., Pool]


@pytest.fixture
def pool() -> Iterator[StartPool]:
    """Starts pools; what they still do is cancelled when the test is over."""
    with ExitStack() as stack:

        def start(*workers: Any, **options: Any) -> Pool:
            made = Pool(workers, **options)
            stack.callback(made.close, drain=False)
            for worker in workers:
                if isinstance(worker, Plain):
                    stack.callback(worker.gate.open)
            return made

        yield start


def _hold_up(pool: Pool, *workers: Plain) -> list[Any]:
    """Give each of the held workers something to draw."""
    tickets = [pool.submit(ask("first")) for _ in workers]
    for worker in workers:
        assert worker.gate.reached.wait(LIMIT)
    return tickets


def _finish(tickets: Sequence[Any], count: int) -> None:
    """Wait until so many are drawn."""
    done = as_completed([ticket.job.fut for ticket in tickets], LIMIT)
    for _ in range(count):
        next(done).result()


def _until(condition: Callable[[], bool]) -> None:
    """Wait for what is told a moment after a picture is there."""
    ends = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < ends, "it never came"
        threading.Event().wait(0.001)


def _places(ticket: Any) -> list[int]:
    return [event.place for event in ticket.events if isinstance(event, Queued)]


def test_a_quicker_engine_takes_more_and_nobody_waits_behind_a_slow_one(pool: StartPool) -> None:
    slow, quick = Plain(held=True), Plain(held=True)
    some = pool(slow, quick)
    held = _hold_up(some, slow, quick)
    tickets = [some.submit(ask(f"{number}")) for number in range(20)]
    quick.gate.open()
    assert [ticket.result(LIMIT).png for ticket in tickets] == [f"{number}".encode() for number in range(20)]
    assert (len(slow.drawn), len(quick.drawn)) == (0, 21)
    slow.gate.open()
    _finish(held, 2)
    assert len(slow.drawn) == 1


def test_whoever_has_nothing_to_do_comes_first(pool: StartPool) -> None:
    workers = Stepped(held=True), Stepped(held=True), Stepped(held=True)
    some = pool(*workers)
    _until(lambda: some._queue._idle == len(workers))  # their threads have begun
    tickets = [some.submit(ask()) for _ in workers]
    for worker in workers:
        assert worker.held.reached.wait(LIMIT)
    assert [worker.live for worker in workers] == [1, 1, 1]
    for worker in workers:
        worker.held.open()
    _finish(tickets, 3)


def test_who_draws_leaves_some_to_those_who_idle_and_these_share() -> None:
    line = RequestQueue(9)
    for number in range(7):
        line.submit(ask(f"{number}"), None, 0)
    line._idle = 2  # who wait in `take`

    def taken(busy: bool) -> list[str]:
        return [ticket.job.req.prompt for ticket in line.take(object(), lambda: 9, busy=busy) or ()]

    assert taken(busy=True) == ["0", "1", "2", "3", "4"]
    assert taken(busy=True) == []
    assert taken(busy=False) == ["5"]


def test_the_order_is_that_of_the_whole_pool(pool: StartPool) -> None:
    one, other = Plain(held=True), Plain(held=True)
    some = pool(one, other)
    held = _hold_up(some, one, other)
    asked = (("a", 0), ("b", 5), ("c", 5), ("d", -1))
    tickets = [some.submit(ask(prompt), priority=priority) for prompt, priority in asked]
    one.gate.open()
    for ticket in tickets:
        ticket.result(LIMIT)
    assert one.drawn == ["first", "b", "c", "a", "d"]
    assert other.drawn == []
    other.gate.open()
    for ticket in held:
        ticket.result(LIMIT)
    assert [_places(ticket) for ticket in tickets] == [[1, 2, 3, 2, 1], [1], [2, 1], [4, 3, 2, 1]]


def test_who_is_cancelled_leaves_the_line_at_once(pool: StartPool) -> None:
    one, other = Plain(held=True), Plain(held=True)
    some = pool(one, other)
    _hold_up(some, one, other)
    second, third = some.submit(ask("second")), some.submit(ask("third"))
    assert second.cancel()
    assert (some.report().waiting, some.report().cancelled, some.report().running) == (1, 1, 2)
    one.gate.open()
    third.result(LIMIT)
    assert list(second.events) == [Queued(1), Cancelled()]
    assert list(third.events) == [Queued(2), Queued(1), Started(), Done(third.result())]
    assert "second" not in one.drawn


def test_who_is_late_is_given_up_in_line(pool: StartPool) -> None:
    one, other = Plain(held=True), Plain(held=True)
    some = pool(one, other)
    _hold_up(some, one, other)
    late, patient = some.submit(ask("late"), deadline=0), some.submit(ask("patient"), deadline=600)
    one.gate.open()
    assert patient.result(LIMIT).png == b"patient"
    with pytest.raises(DeadlineError, match="not done 0 s after it was asked for"):
        late.result(LIMIT)
    assert one.drawn == ["first", "patient"]


def test_the_line_has_one_limit_and_says_when_to_come_back(pool: StartPool) -> None:
    one, other = Plain(held=True), Plain(held=True)
    some = pool(one, other, queue_limit=2)
    held = _hold_up(some, one, other)
    line = [some.submit(ask()) for _ in range(2)]
    with pytest.raises(QueueFullError, match="2 requests wait already: try again in 1 s") as caught:
        some.submit(ask())
    assert caught.value.retry_after == 1
    one.gate.open()
    _finish([*held, *line], 3)
    other.gate.open()
    _finish([*held, *line], 4)
    for worker in (one, other):
        worker.gate.shut()
    _hold_up(some, one, other)
    line = [some.submit(ask()) for _ in range(2)]
    with pytest.raises(QueueFullError) as caught:
        some.submit(ask())
    assert caught.value.retry_after not in (0, 1)  # as measured


def test_what_is_admitted_has_no_limit(pool: StartPool, start: StartEngine) -> None:
    one, other = Plain(held=True), Plain(held=True)
    some = pool(one, other, queue_limit=2)
    _hold_up(some, one, other)
    for _ in range(2):
        some.submit(ask())
    held = Plain(held=True)
    engine = start(held)
    ticket = engine.submit(ask("moved"))
    some.admit(ticket)
    assert some.report().waiting == 3
    held.gate.open()


def test_closing_finishes_what_was_asked_for() -> None:
    workers = Plain(held=True), Plain(held=True)
    some = Pool(workers)
    tickets = [some.submit(ask()) for _ in range(9)]
    closing = threading.Thread(target=some.close)
    closing.start()
    for worker in workers:
        worker.gate.open()
    closing.join(LIMIT)
    assert all(ticket.result(0) for ticket in tickets)
    with pytest.raises(EngineClosedError, match="closed"):
        some.submit(ask())


def test_closing_without_draining_cancels_the_rest() -> None:
    one, other = Plain(held=True), Plain(held=True)
    some = Pool((one, other))
    tickets = [*_hold_up(some, one, other), *(some.submit(ask("more")) for _ in range(3))]
    closing = threading.Thread(target=some.close, kwargs={"drain": False})
    closing.start()
    for ticket in tickets:
        with pytest.raises(CancelledError):
            ticket.result(LIMIT)
    for worker in (one, other):
        worker.gate.open()
    closing.join(LIMIT)
    assert not closing.is_alive()
    assert [one.drawn, other.drawn] == [["first"], ["first"]]


def test_an_engine_that_breaks_takes_only_what_it_had_in_hand(pool: StartPool, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, sound = Plain(held=True), Plain(held=True)
    some = pool(broken, sound)
    held = _hold_up(some, broken, sound)
    waiting = [some.submit(ask(f"{number}")) for number in range(6)]

    def fall(_: Any) -> None:
        _finish(held, 1)
        raise ZeroDivisionError

    first, second = some._engines
    monkeypatch.setattr(first, "_step", fall)  # at the next that it takes
    broken.gate.open()
    with pytest.raises(EngineClosedError, match=r"The engine broke \(ZeroDivisionError.*restart it"):
        waiting[0].result(LIMIT)
    assert (first.is_broken, second.is_broken) == (True, False)
    assert some.is_broken
    assert (some.report().waiting, some.report().broken) == (5, 1)
    sound.gate.open()
    assert [ticket.result(LIMIT).png for ticket in held] == [b"first", b"first"]
    assert [ticket.result(LIMIT).png for ticket in waiting[1:]] == [b"1", b"2", b"3", b"4", b"5"]
    assert some.submit(ask("later")).result(LIMIT).png == b"later"
    assert broken.drawn == ["first"]
    sound.gate.shut()
    last = some.submit(ask("last"))
    assert sound.gate.reached.wait(LIMIT)
    assert some.compute(abs, -1) == 1
    sound.gate.open()
    assert last.result(LIMIT).png == b"last"
    assert (broken.computed, sound.computed) == ([], [(-1,)])


def test_where_all_break_all_are_told(pool: StartPool, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Plain(held=True), Plain(held=True)
    some = pool(one, other)
    held = _hold_up(some, one, other)
    waiting = [some.submit(ask()) for _ in range(6)]
    for engine in some._engines:
        monkeypatch.setattr(engine, "_step", lambda _: 1 / 0)
    for worker in (one, other):
        worker.gate.open()
    for ticket in waiting:
        with pytest.raises(EngineClosedError, match="The engine broke"):
            ticket.result(LIMIT)
    with pytest.raises(EngineClosedError):
        some.submit(ask())
    assert all(ticket.job.fut.done() for ticket in held)
    _until(lambda: some.report().waiting == 0)


def test_what_else_computes_goes_where_the_least_is_drawn(pool: StartPool) -> None:
    busy, idle = Plain(held=True), Plain(held=True)
    some = pool(busy, idle)
    held = _hold_up(some, busy, idle)
    idle.gate.open()
    _finish(held, 1)
    _until(lambda: some.report().running == 1)
    assert some.compute(max, 1, 2) == 2
    assert (busy.computed, idle.computed) == ([], [(1, 2)])


@pytest.mark.parametrize(("rows", "begun"), [(1, 2), (2, 3), (16, 24)])
def test_one_of_several_begins_what_fills_its_batches_and_half_as_much(pool: StartPool, rows: int, begun: int) -> None:
    workers = Stepped(held=True), Stepped(held=True)
    some = pool(*workers)
    for engine in some._engines:
        known = engine._native  # what the self-test would find on a device where so many pay
        known.fits = known.rows = rows
        known.proven.update(SIZES)
    tickets = [some.submit(ask(num_inference_steps=20)) for _ in range(70)]
    for worker in workers:
        assert worker.held.reached.wait(LIMIT)
    quick, slow = workers
    quick.held.open()
    _finish(tickets, 70 - slow.live)
    assert (quick.most_together, quick.most_live) == (rows, begun)
    assert slow.live <= begun
    slow.held.open()


def test_an_engine_alone_begins_what_it_can(start: StartEngine) -> None:
    alone = Stepped(held=True)
    engine = start(alone)
    tickets = [engine.submit(ask(num_inference_steps=20)) for _ in range(70)]
    alone.held.open()
    _finish(tickets, 70)
    assert alone.most_live == 64


def test_a_plain_worker_takes_its_jobs_one_at_a_time(pool: StartPool) -> None:
    some = pool(Plain(), Plain())
    for ticket in [some.submit(ask()) for _ in range(40)]:
        ticket.result(LIMIT)
    _until(lambda: some.report().finished == 40)
    report = some.report()
    assert report.steps == {1: 40}
    assert (report.waiting, len(report.groups)) == (0, 2)


def test_a_worker_that_cannot_start_leaves_no_engine_behind() -> None:
    class Bad(Plain):
        def warm_up(self, on_step: Any = None) -> None:
            raise ZeroDivisionError

    before = _engine_threads()
    with pytest.raises(ZeroDivisionError):
        Pool((Plain(), Bad()))
    assert _engine_threads() <= before


def _engine_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "imagegen-engine"}


def test_pictures_are_those_of_a_single_engine(pool: StartPool, sdxl_checkpoint: Path) -> None:
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
    some = pool(*workers)
    for worker in workers:
        worker.batches.clear()
    tickets = [some.submit(request) for request in requests]
    assert [ticket.result(LIMIT) for ticket in tickets] == expected
    assert all(worker.batches for worker in workers)
