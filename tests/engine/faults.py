"""A worker whose stages can be blocked, observed and made to fail."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

Hook = Callable[..., None]


class Watched:
    """A worker that calls `before[stage]` with the stage's arguments before each ``begin``, ``step``, and so on."""

    def __init__(self, worker: Any, **before: Hook) -> None:
        self.worker = worker
        self.worker_id = 0
        self.before = before
        self.batches: list[list[int]] = []
        """The seeds of each step's states."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.worker, name)

    @property
    def numerics(self) -> Any:
        return self.worker.numerics

    def _call(self, stage: str, *arguments: Any) -> Any:
        if stage in self.before:
            self.before[stage](*arguments)
        return getattr(self.worker, stage)(*arguments)

    def begin(self, job: Any) -> Any:
        return self._call("begin", job)

    def begin_in_parts(self, job: Any) -> Any:
        if "begin" in self.before:
            self.before["begin"](job)
        return (yield from self.worker.begin_in_parts(job))

    def group(self, state: Any) -> Any:
        return self._call("group", state)

    def step(self, states: Sequence[Any]) -> None:
        self.batches.append([state.request.seed for state in states])
        self._call("step", states)

    def trial(self, states: Sequence[Any]) -> bool:
        self.batches.append([state.request.seed for state in states])
        return bool(self._call("trial", states))

    def finish(self, state: Any) -> Any:
        return self._call("finish", state)

    def run_job(self, job: Any) -> Any:
        return self.worker.run_job(job)

    def run_job_with_latents(self, job: Any) -> Any:
        return self.worker.run_job_with_latents(job)


class Gate:
    """A hook that blocks its callers while it is shut.

    `reached` is set when a caller waits, and `open` releases all callers.
    """

    def __init__(self, shut: bool = False) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()
        if not shut:
            self._open.set()

    def shut(self) -> None:
        self.reached.clear()
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def __call__(self, *_: Any) -> None:
        if not self._open.is_set():
            self.reached.set()
            assert self._open.wait(60)
