"""Requests are answered at their deadline, whatever the worker does."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx2 as httpx
import pytest

from imagegen_core import DeadlineError, Job, LocalEngine, Settings
from imagegen_core.engine import Pool
from imagegen_core.hosting.model_manager import ModelManager
from imagegen_core.server import create_app
from tests.engine.conftest import ask
from tests.engine.faults import Gate
from tests.server.conftest import LIMIT, StartServer, listening
from tests.waiting import until

DEADLINE = 0.5
IN_TIME = DEADLINE + 1.0
ROUTES = {
    "/generate": {"prompt": "a", "size": "64x64"},
    "/v1/images/generations": {"prompt": "a", "size": "64x64", "n": 2},
    "/sdapi/v1/txt2img": {"prompt": "a", "width": 64, "height": 64, "batch_size": 2},
}


class Plain:
    """A worker without steps behind a gate; its pictures equal those of a worker with steps."""

    worker_id = 0

    def __init__(self, worker: Any, gate: Gate) -> None:
        self._worker, self._gate = worker, gate

    def run_job(self, job: Job) -> tuple[bytes, int]:
        return self.run_job_with_latents(job)[:2]

    def run_job_with_latents(self, job: Job) -> tuple[bytes, int, bytes]:
        self._gate(job)
        return self._worker.run_job_with_latents(job)  # type: ignore[no-any-return]


class Held:
    """A server with plain workers behind a gate."""

    def __init__(self, url: str, gate: Gate, app: Any) -> None:
        self.url, self.gate, self.app = url, gate, app

    def post(self, route: str, body: Any, **options: Any) -> tuple[httpx.Response, float]:
        began = time.monotonic()
        response = httpx.post(f"{self.url}{route}", json=body, timeout=LIMIT, **options)
        return response, time.monotonic() - began


@pytest.fixture
def hold(tiny_worker: Any) -> Iterator[Callable[..., Held]]:
    """A function to start a server with a number of plain workers."""
    with ExitStack() as stack:

        def start(workers: int = 1, **settings: Any) -> Held:
            gate = Gate()
            plain = [Plain(tiny_worker, gate) for _ in range(workers)]
            engine: Any = LocalEngine(plain[0]) if workers == 1 else Pool(plain)
            stack.callback(engine.close, drain=False)
            stack.callback(gate.open)
            app = create_app(Settings.load(environ={}, default_timeout=DEADLINE, **settings), engine)
            return Held(stack.enter_context(listening(app)), gate, app)

        yield start


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("route", ROUTES)
def test_a_job_without_steps_is_answered_at_its_deadline(hold: Callable[..., Held], workers: int, route: str) -> None:
    held = hold(workers)
    held.gate.shut()
    with ThreadPoolExecutor() as pool:  # each worker draws one request, the other requests wait
        responses = list(pool.map(lambda _: held.post(route, ROUTES[route]), range(workers + 2)))
    assert [response.status_code for response, _ in responses] == [504] * (workers + 2)
    assert max(seconds for _, seconds in responses) < IN_TIME
    assert "The picture was not done 0.5 s after it was asked for" in responses[0][0].text
    held.gate.open()
    while (response := held.post("/generate", ROUTES["/generate"])[0]).status_code == 504:  # the running job ends first
        assert "0.5 s" in response.text
    assert response.status_code == 200


def test_a_posted_job_without_steps_fails_at_its_deadline(hold: Callable[..., Held]) -> None:
    held = hold()
    held.gate.shut()
    job, _ = held.post("/v1/jobs", ROUTES["/generate"])
    address = f"{held.url}/v1/jobs/{job.json()['id']}"
    began = time.monotonic()
    events = httpx.get(f"{address}/events", timeout=LIMIT).text
    assert time.monotonic() - began < IN_TIME
    assert "event: failed" in events
    state = httpx.get(address, timeout=LIMIT).json()
    assert (state["status"], state["error"]["type"]) == ("failed", "deadline")


def test_a_disconnected_client_frees_its_place_at_once(hold: Callable[..., Held]) -> None:
    held = hold(api_keys="key", queue_per_key=1)
    headers = {"Authorization": "Bearer key"}
    held.gate.shut()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{held.url}/generate", json=ROUTES["/generate"], headers=headers, timeout=0.2)
    context = held.app.state.context
    until(lambda: not context._open, IN_TIME)
    response, seconds = held.post("/generate", ROUTES["/generate"], headers=headers)
    assert (response.status_code, seconds < IN_TIME) == (504, True)  # not 429: the request waited for the worker


@pytest.mark.parametrize("stage", ["begin", "step", "finish"])
def test_a_slow_stage_does_not_delay_the_response_beyond_the_deadline(serve: StartServer, stage: str) -> None:
    server, gate = serve(default_timeout=DEADLINE), Gate(shut=True)
    server.worker.before |= {stage: gate} | ({"trial": gate} if stage == "step" else {})
    began = time.monotonic()
    response = server.draw()
    assert time.monotonic() - began < IN_TIME
    assert (response.status_code, response.json()["type"]) == (504, "deadline")
    gate.open()
    server.until(lambda: server.report().running == 0)


def test_requests_for_loading_or_waiting_models_fail_at_their_deadline(tiny_worker: Any) -> None:
    loading, drawing = Gate(), Gate()

    def load(_key: str, _others: Any) -> LocalEngine:
        loading()
        return LocalEngine(Plain(tiny_worker, drawing))

    manager = ModelManager(load, estimate=lambda _: 1, budget=1)
    try:
        manager.submit("a", ask()).result(LIMIT)
        drawing.shut()
        manager.submit("a", ask())
        assert drawing.reached.wait(LIMIT)
        began = time.monotonic()
        tickets = [manager.submit(key, ask(), deadline=DEADLINE) for key in ("a", "b", "c")]
        for ticket in tickets:
            with pytest.raises(DeadlineError):
                ticket.result(LIMIT)
        assert time.monotonic() - began < IN_TIME
    finally:
        drawing.open()
        manager.close(drain=False)


def test_no_error_is_logged_as_never_retrieved(serve: StartServer, caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    server = serve(default_timeout=DEADLINE)

    def fail(_: Any) -> None:
        gate()
        raise ZeroDivisionError("a fault")

    server.worker.before |= {"begin": fail}
    with caplog.at_level(logging.ERROR, logger="asyncio"):
        for route, body in [*ROUTES.items(), ("/v1/jobs", ROUTES["/generate"])]:
            for held_up in (False, True):  # first the worker fails, then the deadline passes
                gate.shut() if held_up else gate.open()
                server.http.post(route, json=body)
            with contextlib.suppress(httpx.ReadTimeout):  # a posted job is answered at once
                httpx.post(f"{server.url}{route}", json=body, timeout=0.1)
            gate.open()
        job = server.http.post("/v1/jobs", json=ROUTES["/generate"]).json()["id"]
        server.http.delete(f"/v1/jobs/{job}")
        server.until(lambda: server.report().running == server.report().waiting == 0)
        server.app.state.context.jobs = None  # drops the jobs' results
        asyncio.run(asyncio.sleep(0))
        gc.collect()
        server.http.get("/health")
    assert not [record.getMessage() for record in caplog.records if record.name == "asyncio"]
