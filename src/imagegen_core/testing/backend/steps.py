"""Checks of a worker with interleaved steps: the engine's continuous batching needs them."""

from __future__ import annotations

from typing import Any

import pytest

from imagegen_core.job import Job, StepDone
from imagegen_core.parts import works_in_parts
from imagegen_core.picture_files.decode import read_picture
from imagegen_core.testing.backend.kit import BackendKit, finished
from imagegen_core.testing.quick import QUICK
from imagegen_core.worker import BatchInvariant, ShowsPreviews

_STEPS = 3


class StepChecks(BackendKit):
    """`SteppedWorker`, `BatchInvariant` and `ShowsPreviews`."""

    @QUICK
    def test_run_job_equals_its_steps(self, stepped: Any) -> None:
        """The command line draws whole jobs, the server draws by steps: the picture is the same."""
        whole, by_steps = self.draw(stepped), self.draw_by_steps(stepped)
        assert (by_steps.png, by_steps.seed, by_steps.latents) == (whole.png, whole.seed, whole.latents)

    def test_jobs_begun_in_parts_are_independent(self, stepped: Any) -> None:
        """The engine continues with other jobs between the parts of a long beginning: each picture is the same."""
        if not works_in_parts(stepped, "begin"):
            pytest.skip("the worker begins at once (imagegen_core.BeginsInParts)")
        asks: list[dict[str, Any]] = [{"seed": 3, "prompt": "a red hill BREAK " * 3}, {"seed": 4}]
        alone = [self.draw(stepped, **fields).png for fields in asks]
        begun: dict[int, Any] = {}
        beginning = {number: stepped.begin_in_parts(Job(req=self.ask(**fields))) for number, fields in enumerate(asks)}
        while beginning:
            for number, parts in [*beginning.items()]:
                try:
                    next(parts)
                except StopIteration as end:
                    begun[number] = end.value
                    del beginning[number]
        assert [finished(stepped, begun[number]).png for number in range(len(asks))] == alone

    def test_step_advances_by_one(self, stepped: Any) -> None:
        """Between steps the engine cancels, admits and reports: each call advances a state by one step."""
        state = stepped.begin(Job(req=self.ask(num_inference_steps=_STEPS)))
        left = [state.steps_left]
        while state.steps_left and len(left) < 10 * _STEPS:
            stepped.step([state])
            left.append(state.steps_left)
        assert left == list(range(_STEPS, -1, -1)), f"steps_left went {left}: expected one less after each step"

    @QUICK
    def test_each_step_is_reported(self, stepped: Any) -> None:
        """Progress bars, previews and the A1111 API's progress live from `job.on_step`."""
        steps: list[StepDone] = []
        job = Job(req=self.ask(num_inference_steps=_STEPS), on_step=steps.append)
        finished(stepped, stepped.begin(job))
        assert [(event.step, event.steps) for event in steps] == [(step, _STEPS) for step in range(1, _STEPS + 1)]

    @QUICK
    def test_states_report_their_rows(self, stepped: Any) -> None:
        """The engine counts rows, and batches the states of one group."""
        state = stepped.begin(Job(req=self.ask()))
        assert state.rows >= 1
        assert state.failure is None
        group = stepped.group(state)
        assert hash(group) == hash(stepped.group(stepped.begin(Job(req=self.ask(seed=2)))))
        assert str(group).strip(), "a group, as text, tells people what it has in common"

    def test_interleaved_jobs_are_independent(self, stepped: Any) -> None:
        """Each state has its own generator, scheduler and step: other states may run between its steps."""
        asks: list[dict[str, Any]] = [{"seed": 3}, {"seed": 4, "prompt": "a green hill", "num_inference_steps": _STEPS}]
        alone = [self.draw(stepped, **fields).png for fields in asks]
        states = [stepped.begin(Job(req=self.ask(**fields))) for fields in asks]
        while any(state.steps_left for state in states):
            for state in states:
                if state.steps_left:
                    stepped.step([state])
        assert [stepped.finish(state)().png for state in states] == alone

    def test_states_of_one_group_can_be_stepped_together(self, stepped: Any, description: Any) -> None:
        """States with different shapes must differ in group. States of one group share a pass, each at any step."""
        asks: list[dict[str, Any]] = [{"seed": 3}, {"seed": 4, "num_inference_steps": _STEPS}]
        asks += [{"seed": 5, "size": str(self.wide(description))}]
        asks += [] if "guidance_scale" in description.without else [{"seed": 6, "guidance_scale": 3.0}]
        states = [stepped.begin(Job(req=self.ask(**fields))) for fields in asks]
        while running := [state for state in states if state.steps_left]:
            group = stepped.group(running[0])
            stepped.step([state for state in running if stepped.group(state) == group])
        for state, fields in zip(states, asks, strict=True):
            assert state.failure is None
            assert stepped.finish(state)().size == self.draw(stepped, **fields).size

    def test_trial_is_correct(self, stepped: Any) -> None:
        """`trial` promises the engine that a batch changes no picture: not a single bit may differ."""
        if not _is(stepped, BatchInvariant):
            pytest.skip("the worker proves nothing, so it draws one picture at a time (imagegen_core.BatchInvariant)")
        for count in (2, 3, 4):
            asks = [{"seed": seed, "num_inference_steps": _STEPS} for seed in range(count)]
            alone = [self.draw(stepped, **fields).png for fields in asks]
            states, tried = ([stepped.begin(Job(req=self.ask(**fields))) for fields in asks] for _ in range(2))
            same = stepped.trial(tried)
            assert [finished(stepped, state).png for state in tried] == alone, "a trial's own steps changed pictures"
            order = states
            while order[0].steps_left:
                stepped.step(order)
                order = order[::-1]
            together = [stepped.finish(state)().png for state in states]
            assert together == alone or not same, (
                f"trial says that {count} together are as each alone, and they are not"
            )

    def test_a_preview_changes_nothing(self, stepped: Any) -> None:
        """A preview must not change the picture."""
        if not _is(stepped, ShowsPreviews):
            pytest.skip("the worker shows no previews (imagegen_core.ShowsPreviews)")
        state = stepped.begin(Job(req=self.ask()))
        while state.steps_left:
            stepped.step([state])
            assert read_picture(stepped.preview(state), png_only=True).width <= stepped.finish(state)().size[0]
        assert stepped.finish(state)().png == self.draw(stepped).png


def _is(worker: Any, protocol: type) -> bool:
    """Return whether a worker implements another protocol, without narrowing its type for the type checker."""
    return isinstance(worker, protocol)
