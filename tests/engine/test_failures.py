"""An error affects only its own picture, at every stage."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
import torch

from imagegen_core import Done, Failed, Job, OutOfMemoryError, Picture
from imagegen_core.diffusion import memory
from tests.engine.conftest import StartEngine, ask
from tests.engine.faults import Gate, Watched


def _alone(worker: Any, seed: int) -> Picture:
    return Picture(*worker.run_job_with_latents(Job(req=ask(seed=seed))))


def _fails_for(seed: int, error: Exception) -> Any:
    """Return a hook that raises if one of its jobs or states has the seed."""

    def hook(argument: Any) -> None:
        parts = argument if isinstance(argument, list) else [argument]
        seeds = [part.req.seed if isinstance(part, Job) else part.request.seed for part in parts]
        if seed in seeds:
            raise error

    return hook


@pytest.mark.parametrize("stage", ["begin", "step", "trial", "finish"])
def test_an_error_fails_only_its_own_picture(worker: Any, start: StartEngine, stage: str) -> None:
    watched = Watched(worker)
    engine = start(watched)
    hook = _fails_for(77, ZeroDivisionError("a fault"))
    watched.before = {"step": hook, "trial": hook} if stage in ("step", "trial") else {stage: hook}
    tickets = {seed: engine.submit(ask(seed=seed)) for seed in (1, 77, 2, 3)}
    with pytest.raises(ZeroDivisionError, match="a fault"):
        tickets[77].result(60)
    for seed in (1, 2, 3):
        assert tickets[seed].result(60) == _alone(worker, seed)
    assert [type(list(ticket.events)[-1]) for ticket in tickets.values()] == [Done, Failed, Done, Done]
    assert (engine.report().failed, engine.report().finished) == (1, 3)


def test_a_scheduler_error_fails_only_its_own_picture(worker: Any, start: StartEngine) -> None:
    begin = worker.begin

    def spoiled(job: Job) -> Any:
        state = begin(job)
        if job.req.seed == 77:
            state.scheduler.step = None
        return state

    watched = Watched(worker)
    watched.begin = spoiled  # type: ignore[method-assign]
    engine = start(watched)
    tickets = {seed: engine.submit(ask(seed=seed)) for seed in (1, 77, 2)}
    with pytest.raises(TypeError):
        tickets[77].result(60)
    for seed in (1, 2):
        assert tickets[seed].result(60) == _alone(worker, seed)


def test_out_of_memory_halves_the_batch(
    worker: Any, start: StartEngine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagegen_core.engine.batch_size._GAIN", 100.0)  # a larger batch pays even on a busy machine
    watched = Watched(worker)
    engine = start(watched, batching="fast")

    def small(states: list[Any]) -> None:
        if len(states) > 2:
            raise OutOfMemoryError("too much")

    watched.before["step"] = small
    tickets = {seed: engine.submit(ask(seed=seed, num_inference_steps=12)) for seed in range(8)}
    for ticket in tickets.values():
        ticket.result(60)
    assert max(map(len, watched.batches[-8:])) <= 2
    assert any("ran out of memory" in message for message in caplog.messages)


def test_a_picture_too_large_for_memory_fails_alone_with_advice(
    worker: Any, start: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start(worker)
    unet = worker.pipe.unet.forward

    def forward(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if sample.shape[-1] == 12:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return unet(sample, *args, **kwargs)

    monkeypatch.setattr(worker.pipe.unet, "forward", forward)
    large, small = engine.submit(ask(size="96x64")), engine.submit(ask())
    with pytest.raises(OutOfMemoryError, match=r"did not take a picture of 96x64: ask for a smaller size.*CUDA_DTYPE"):
        large.result(60)
    assert small.result(60) == _alone(worker, 1)


def test_a_decoder_out_of_memory_fails_its_picture_alone_and_decodes_in_no_other_way(
    worker: Any, start: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start(worker)
    decode = worker.pipe.vae.decode

    def crowded(latents: torch.Tensor, **options: Any) -> Any:
        if not worker.pipe.vae.use_tiling and latents.shape[-1] == 12:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory")
        return decode(latents, **options)

    monkeypatch.setattr(worker.pipe.vae, "decode", crowded)
    large, small = engine.submit(ask(size="96x64")), engine.submit(ask())
    with pytest.raises(OutOfMemoryError, match=r"did not take a picture of 96x64: .*IMAGEGEN_VAE_TILING=1"):
        large.result(60)
    assert small.result(60) == _alone(worker, 1)


def test_a_picture_larger_than_the_memory_is_refused_before_it_begins(
    worker: Any, start: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start(worker)
    monkeypatch.setattr(memory, "FLAT_UNET_COPIES", 10**9)
    with pytest.raises(OutOfMemoryError, match=r"A picture of 64x64 takes about [\d.]+ GB of memory, and cpu has"):
        engine.submit(ask()).result(60)


def test_an_engine_draws_after_its_self_test_ran_out_of_memory(worker: Any, start: StartEngine) -> None:
    def small(states: list[Any]) -> None:
        if len(states) > 1:
            raise OutOfMemoryError("too much")

    engine = start(Watched(worker, trial=small))
    assert {group.rows for group in engine.report().groups} == {1}
    assert engine.submit(ask()).result(60) == _alone(worker, 1)


def test_a_step_that_hangs_is_reported(worker: Any, start: StartEngine, caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    engine = start(Watched(worker, step=gate), step_limit=0.05)
    gate.shut()
    ticket = engine.submit(ask())
    assert gate.reached.wait(60)
    with caplog.at_level(logging.ERROR):
        while not caplog.messages:
            threading.Event().wait(0.01)
    assert engine.report().stuck > 0.05
    assert "A step of 1 rows (64x64, 77 tokens) has been running for 0 s: the device may hang" in caplog.messages[0]
    gate.open()
    assert ticket.result(60) == _alone(worker, 1)
    assert engine.report().stuck == 0


def test_a_broken_engine_fails_its_requests_with_the_reason(
    worker: Any, start: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start(worker)
    monkeypatch.setattr(engine, "_step", lambda _: 1 / 0)
    ticket = engine.submit(ask())
    with pytest.raises(RuntimeError, match="The engine broke.*restart it"):
        ticket.result(60)
