"""The engine's use of memory, and its previews."""

from __future__ import annotations

import gc
import io
import weakref
from collections import deque
from typing import Any

import numpy as np
import psutil
from PIL import Image

from imagegen_core import Cancelled, Done, Size, StepDone
from imagegen_core.diffusion import memory
from tests.engine.conftest import StartEngine, ask
from tests.engine.faults import Gate, Watched
from tests.repetitions import FACTOR

REQUESTS = 600 * FACTOR
EVERY = REQUESTS // 40  # requests between two measurements


def test_a_cancelled_job_frees_its_memory_while_its_ticket_is_kept(worker: Any, start: StartEngine) -> None:
    gate = Gate()
    watched = Watched(worker, step=gate)
    engine = start(watched)
    states: list[weakref.ref[Any]] = []
    watched.before["group"] = lambda state: states.append(weakref.ref(state))
    gate.shut()
    ticket = engine.submit(ask())
    assert gate.reached.wait(60)
    ticket.cancel()
    gate.open()
    assert list(ticket.events)[-1] == Cancelled()
    assert engine.submit(ask(seed=2)).result(60)
    gc.collect()
    assert len(states) == 2
    assert states[0]() is None


def test_free_memory_limits_the_batch(worker: Any, start: StartEngine, monkeypatch: Any) -> None:
    watched = Watched(worker)
    engine = start(watched, batching="fast")
    row = worker.row_bytes(Size(64, 96))
    monkeypatch.setattr(memory, "DECODER_COPIES", 0)  # this test is about the steps
    monkeypatch.setattr(memory, "free_bytes", lambda _: 3.9 * row)
    watched.batches.clear()
    for ticket in [engine.submit(ask(seed=seed, num_inference_steps=20, size="64x96")) for seed in range(8)]:
        ticket.result(60)
    assert 1 < max(map(len, watched.batches)) <= 3


def test_memory_stays_constant_over_many_requests(worker: Any, start: StartEngine) -> None:
    engine = start(worker)
    process = psutil.Process()
    resident = []
    running: deque[Any] = deque()
    for number in range(REQUESTS):
        running.append(engine.submit(ask(f"a lake {number % 100}", seed=number, num_inference_steps=1)))
        if len(running) >= 12:
            running.popleft().result(60)
        if number % EVERY == EVERY - 1:
            resident.append(process.memory_info().rss)
    before, after = np.median(resident[10:16]), np.median(resident[-6:])
    assert after <= 1.03 * before


def test_previews_approach_the_final_picture(start: StartEngine, demo_worker: Any) -> None:
    engine = start(demo_worker, previews=True)
    ticket = engine.submit(ask("a red circle on a blue background", size="256x256", num_inference_steps=4))
    events = list(ticket.events)
    assert isinstance(events[-1], Done)
    final = np.asarray(events[-1].picture.image.reduce(8), dtype=float)
    previews = [event.preview for event in events if isinstance(event, StepDone)]
    assert len(previews) == 4
    errors = []
    for preview in previews:
        assert preview is not None
        image = Image.open(io.BytesIO(preview))
        assert image.size == (32, 32)
        errors.append(np.abs(np.asarray(image, dtype=float) - final).mean())
    assert errors[-1] < 12
    assert errors[-1] < errors[0]
