"""Pictures go from one model's engine to their refiner's, in one process and with one ticket."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imagegen_core import (
    DeadlineError,
    Done,
    GenerateRequest,
    InvalidRequestError,
    Job,
    LocalEngine,
    Picture,
    Settings,
    Started,
    StepDone,
)
from imagegen_core.hosting.model_host import LocalModelHost
from imagegen_core.modes import Mode
from imagegen_core.plugins.registry import Registry
from imagegen_core.settings import ModeSettings
from imagegen_sdxl import DiffusersSDXLCudaWorker, SDXLRefinerWorker
from tests.checkpoints import save_sdxl, save_sdxl_refiner
from tests.pictures_in.conftest import picture
from tests.waiting import until

LONG = 240.0  # seconds; perhaps on a busy machine


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("refining")
    return {"base": save_sdxl(folder / "tiny-sdxl"), "refiner": save_sdxl_refiner(folder / "tiny-refiner")}


def settings(checkpoint: Path) -> Settings:
    return Settings(model=str(checkpoint), device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def workers(checkpoints: dict[str, Path]) -> tuple[Any, Any]:
    return DiffusersSDXLCudaWorker(settings=settings(checkpoints["base"])), SDXLRefinerWorker(
        settings=settings(checkpoints["refiner"])
    )


@pytest.fixture
def engines(workers: tuple[Any, Any]) -> Iterator[tuple[LocalEngine, LocalEngine]]:
    with LocalEngine(workers[0], previews=True) as base, LocalEngine(workers[1], previews=True) as refiner:
        yield base, refiner


def ask(seed: int = 7, **fields: Any) -> GenerateRequest:
    shared = {"prompt": "a lake", "size": "64x48", "scheduler": "Euler a", "num_inference_steps": 8}
    return GenerateRequest.given(**{**shared, "seed": seed, **fields})


def refined(seed: int = 7, **fields: Any) -> GenerateRequest:
    return ask(seed, **{"refiner": "refiner", "switch_at": 0.5, **fields})


def drawn_alone(workers: tuple[Any, Any], request: GenerateRequest) -> bytes:
    half_drawn = workers[0].run_first_part(Job(req=request))
    return Picture(*workers[1].run_job_with_latents(Job(req=request, half_drawn=half_drawn))).png


def test_pictures_are_exact_in_company_and_share_passes(
    engines: tuple[LocalEngine, LocalEngine], workers: tuple[Any, Any]
) -> None:
    base, refiner = engines
    chained = [
        refined(1),
        refined(2, guidance_scale=3.0),
        refined(3, switch_at=0.3),
        refined(4, image=picture(), strength=0.7),
        refined(5, scheduler="DPM++ 2M"),
        refined(6),
    ]
    plain, refining = [ask(7), ask(8, guidance_scale=3.0)], [ask(9), ask(10, image=picture(), strength=0.5)]
    tickets = [base.submit(request, take_over=refiner.take_over) for request in [*chained, *plain]]
    tickets += [refiner.submit(request) for request in refining]
    pictures = [ticket.result(LONG).png for ticket in tickets]
    expected = [drawn_alone(workers, request) for request in chained]
    assert pictures[: len(chained)] == expected
    for request, png in zip(plain, pictures[len(chained) : -2], strict=True):
        assert png == workers[0].run_job(Job(req=request))[0]
    for request, png in zip(refining, pictures[-2:], strict=True):
        assert png == workers[1].run_job(Job(req=request))[0]
    assert max(base.report().steps) > 1
    assert max(refiner.report().steps) > 1
    assert (base.report().finished, refiner.report().finished) == (len(plain), len(chained) + len(refining))


def test_one_job_has_one_start_and_counts_all_steps(engines: tuple[LocalEngine, LocalEngine]) -> None:
    base, refiner = engines
    ticket = base.submit(refined(), take_over=refiner.take_over)
    events = [*ticket.events]
    steps = [event for event in events if isinstance(event, StepDone)]
    assert [(step.step, step.steps) for step in steps] == [(number, 8) for number in range(1, 9)]
    assert all(step.preview for step in steps)
    kinds = [type(event).__name__ for event in events if not isinstance(event, StepDone)]
    assert kinds == ["Queued", "Started", "Done"]
    assert isinstance(events[-1], Done)


class Gate:
    """Holds a worker's steps up."""

    def __init__(self, worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.open, step = threading.Event(), threading.Event(), worker.step

        def wait(states: Any) -> None:
            self.reached.set()
            assert self.open.wait(LONG)
            step(states)

        monkeypatch.setattr(worker, "step", wait)
        monkeypatch.setattr(worker, "trial", lambda _states: pytest.fail("no trial is expected"), raising=False)


@pytest.mark.parametrize("end", ["cancel", "deadline"])
def test_a_refiners_job_can_be_cancelled_and_be_late(
    engines: tuple[LocalEngine, LocalEngine], workers: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    base, refiner = engines
    gate = Gate(workers[1], monkeypatch)
    ticket = base.submit(refined(), LONG, take_over=refiner.take_over)
    assert gate.reached.wait(LONG)
    if end == "cancel":
        assert ticket.cancel()
        gate.open.set()
    else:
        ticket.deadline = 0.0
        gate.open.set()
        with pytest.raises(DeadlineError):
            ticket.result(LONG)
    until(lambda: not refiner.report().running, LONG)
    assert (base.report().cancelled, base.report().failed) == (0, 0)
    assert (refiner.report().cancelled, refiner.report().failed) == ((1, 0) if end == "cancel" else (0, 1))


def test_an_engine_alone_refuses_a_refiner(engines: tuple[LocalEngine, LocalEngine]) -> None:
    with pytest.raises(InvalidRequestError, match="one worker or engine has one model"):
        engines[0].submit(refined()).result(LONG)


def test_an_engine_without_handing_over_refuses_before_it_draws() -> None:
    class Plain:
        worker_id = 0

        def run_job(self, job: Job) -> tuple[bytes, int]:
            raise AssertionError

        run_job_with_latents: Any = run_job

    with LocalEngine(Plain()) as engine, pytest.raises(InvalidRequestError, match="Plain draws whole pictures"):
        engine.submit(refined(), take_over=lambda *_: None).result(LONG)


def test_a_refiner_that_refuses_the_picture_fails_it_alone(
    engines: tuple[LocalEngine, LocalEngine], workers: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, refiner = engines
    monkeypatch.setattr(workers[1].pipe.vae.config, "scaling_factor", 0.5, raising=False)
    workers[1].pipe.vae.register_to_config(scaling_factor=0.5)
    try:
        with pytest.raises(InvalidRequestError, match="its latents are not those of the first model"):
            base.submit(refined(), take_over=refiner.take_over).result(LONG)
    finally:
        workers[1].pipe.vae.register_to_config(scaling_factor=0.18215)
    assert base.submit(refined(), take_over=refiner.take_over).result(LONG)


def test_a_closed_refiner_fails_the_picture(workers: tuple[Any, Any]) -> None:
    refiner = LocalEngine(workers[1])
    refiner.close()
    with LocalEngine(workers[0]) as base, pytest.raises(Exception, match="The engine is closed"):
        base.submit(refined(), take_over=refiner.take_over).result(LONG)


@pytest.mark.parametrize("budget", [None, 1])
def test_a_host_draws_with_both_models_within_its_budget(
    checkpoints: dict[str, Path], workers: tuple[Any, Any], budget: int | None
) -> None:
    """With a budget for one model alone, the first model leaves after its open requests, and the refiner loads."""
    whole = settings(checkpoints["base"]).override(memory_budget=budget)
    host = LocalModelHost(whole, Registry.discover())
    base, refiner = (Mode(name, settings(path), ModeSettings()) for name, path in checkpoints.items())
    try:
        requests = [refined(seed) for seed in range(3)]
        tickets = [host.submit(base, request, LONG, refiner) for request in requests]
        pictures = [ticket.result(LONG).png for ticket in tickets]
        again = host.submit(base, requests[0], LONG, refiner).result(LONG).png
        report = host.hosts()[0]
    finally:
        host.close(10)
    assert pictures == [drawn_alone(workers, request) for request in requests]
    assert again == pictures[0]
    assert report.loads == (2 if budget is None else 4)
    assert not any(entry.open for entry in report.entries)


def test_a_model_refines_its_own_pictures_in_its_own_engine(checkpoints: dict[str, Path]) -> None:
    host = LocalModelHost(settings(checkpoints["base"]), Registry.discover())
    base = Mode("base", settings(checkpoints["base"]), ModeSettings())
    try:
        refining = host.submit(base, refined(scheduler="Euler"), LONG, base).result(LONG)
        plain = host.submit(base, ask(scheduler="Euler"), LONG).result(LONG)
        assert refining.latents == plain.latents
        assert not any(entry.open for entry in host.hosts()[0].entries)
        report = host.report()
        assert report is not None
        assert report.finished == 2
    finally:
        host.close(10)


def test_a_cancelled_ticket_lets_go_of_its_models(checkpoints: dict[str, Path]) -> None:
    host = LocalModelHost(settings(checkpoints["base"]), Registry.discover())
    base, refiner = (Mode(name, settings(path), ModeSettings()) for name, path in checkpoints.items())
    try:
        ticket = host.submit(base, refined(), LONG, refiner)
        assert next(event for event in ticket.events if isinstance(event, Started))
        ticket.cancel()
        until(lambda: not any(entry.open for entry in host.hosts()[0].entries), LONG)
    finally:
        host.close(10)
