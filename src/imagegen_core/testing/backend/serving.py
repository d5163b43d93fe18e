"""Checks of a worker in the engine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import asdict
from threading import Event
from typing import Any

import pytest

from imagegen_core.backend import Backend
from imagegen_core.engine import LocalEngine
from imagegen_core.errors import InvalidRequestError
from imagegen_core.numerics import NumericsPlan
from imagegen_core.request import StyleLoraRequest
from imagegen_core.testing.backend.kit import BackendKit, input_image, input_mask
from imagegen_core.worker import Worker

_WAIT = 300.0
_MANY_STEPS = 40


class ServingChecks(BackendKit):
    """Many requests at a time, some of them cancelled or invalid."""

    @pytest.fixture
    def engine(self, worker: Worker) -> Iterator[LocalEngine]:
        """Make an engine for the worker."""
        engine = LocalEngine(worker)
        yield engine
        engine.close(drain=False)

    def test_batched_pictures_equal_single_pictures(
        self, worker: Worker, fresh_worker: Worker, description: Backend
    ) -> None:
        """A picture does not depend on other requests: its bytes are those of a new worker that draws it alone."""
        asks: list[dict[str, Any]] = [{"seed": seed, "num_inference_steps": 2 + seed % 3} for seed in range(6)]
        asks += [{"seed": 7, "size": str(self.wide(description))}, {"seed": 8, "size": str(self.wide(description))}]
        asks += [] if "guidance_scale" in description.without else [{"seed": 9, "guidance_scale": 3.0}]
        asks += [] if "image" in description.without else [{"seed": 10, "image": input_image()}]
        asks += [] if "mask" in description.lacking else [{"seed": 11, "image": input_image(), "mask": input_mask()}]
        alone = [self.draw(fresh_worker, **fields) for fields in asks]
        with LocalEngine(worker) as engine:
            tickets = [engine.submit(self.ask(**fields)) for fields in asks]
            together = [ticket.result(_WAIT) for ticket in tickets]
        differing = [
            fields for fields, single, shared in zip(asks, alone, together, strict=True) if single.png != shared.png
        ]
        assert not differing, f"these came out differently in company: {differing}"
        assert [picture.latents for picture in together] == [picture.latents for picture in alone]

    def test_the_numerics_plan_is_fixed(self, worker: Worker, fresh_worker: Worker) -> None:
        """A picture's bytes follow from its request and the numerics plan: neither drawing nor an engine changes it."""
        before = getattr(worker, "numerics", None)
        if not isinstance(before, NumericsPlan):
            pytest.skip("the worker has no numerics plan (imagegen_core.HasNumerics)")
        self.draw(worker)
        with LocalEngine(worker):
            pass
        for name, plan in [("the engine", worker), ("a new worker", fresh_worker)]:
            differing = before.differences(plan.numerics)  # type: ignore[attr-defined] # as above
            assert not differing, f"with {name}, the numerics plan changes: {'; '.join(differing)}"
        json.dumps(asdict(before))  # for `/health` and recipes

    def test_an_invalid_request_does_not_affect_others(self, worker: Worker, engine: LocalEngine) -> None:
        """A failure affects its own job only, not the others in the engine."""
        wrong = engine.submit(self.ask(style_lora=StyleLoraRequest(style="no-such-style", level=1)))
        right = engine.submit(self.ask(seed=5))
        with pytest.raises(InvalidRequestError):
            wrong.result(_WAIT)
        picture = right.result(_WAIT)
        engine.close()
        assert picture.png == self.draw(worker, seed=5).png

    def test_a_cancelled_job_ends_between_two_steps(
        self, stepped: Any, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Cancelling a job frees the device at the next step, and changes nothing for the other jobs."""
        began, cancelled, steps, step = Event(), Event(), [], stepped.step

        def step_and_wait(states: Sequence[Any]) -> None:
            step(states)
            steps.append(len(states))
            began.set()
            cancelled.wait(_WAIT)

        monkeypatch.setattr(stepped, "step", step_and_wait)
        leaving = engine.submit(self.ask(num_inference_steps=_MANY_STEPS))
        assert began.wait(_WAIT), "no step was taken"
        leaving.cancel()
        staying = engine.submit(self.ask(seed=5, num_inference_steps=4))
        cancelled.set()
        picture = staying.result(_WAIT)
        with pytest.raises(CancelledError):
            leaving.result(_WAIT)
        engine.close()
        monkeypatch.undo()
        assert len(steps) < _MANY_STEPS, "the cancelled job was drawn to its end"
        assert picture.png == self.draw(stepped, seed=5, num_inference_steps=4).png

    def test_the_worker_is_unchanged_after_the_engine(self, worker: Worker) -> None:
        """The engine tests a worker when it takes it over: these tests must not change later pictures."""
        before = self.draw(worker)
        with LocalEngine(worker):
            pass
        assert self.draw(worker).png == before.png
