"""A plugin for the replicas of a test's cluster; its worker needs no torch, and certain prompts make it fail."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imagegen_core import Backend, DeviceMemory, Job, NumericsPlan, Picture, encode_png, hookimpl
from imagegen_core.job import StepDone
from imagegen_core.request import ResolvedRequest

STEP = 0.02  # seconds
SIZE = 100  # bytes of a model


@hookimpl
def imagegen_backends() -> list[Backend]:
    return [
        Backend(name="scripted", summary="a test's", worker="tests.cluster.scripted:ScriptedWorker", default_size="8x8")
    ]


class Trouble(RuntimeError):  # noqa: N818 - not an imagegen error, and unknown to other processes
    pass


class _State:
    rows = 1
    failure: Exception | None = None

    def __init__(self, job: Job) -> None:
        self.job = job
        self.request = ResolvedRequest.of(job.req, native_size="8x8")
        self.steps_left = self.request.steps


class ScriptedWorker:
    """Take `STEP` seconds for a step, regardless of the number of pictures.

    The prompt ``die`` ends each process that draws it. ``kill PATH`` kills only the first process, halfway, and writes
    its pid to the file.
    """

    native_size = "8x8"

    def __init__(self, worker_id: int = 0, settings: Any = None) -> None:
        self.worker_id = worker_id
        self.numerics = NumericsPlan("cpu", "fp32", processor=_processor(settings.model or ""))
        if settings.model == "broken":
            raise Trouble("this model does not load")

    def run_job(self, job: Job) -> tuple[bytes, int]:
        return self.run_job_with_latents(job)[:2]

    def run_job_with_latents(self, job: Job) -> tuple[bytes, int, bytes]:
        picture = picture_of(ResolvedRequest.of(job.req, native_size="8x8"))
        return picture.png, picture.seed, picture.latents

    def begin(self, job: Job) -> _State:
        state = _State(job)
        if state.request.prompt == "trouble":
            raise Trouble("something broke")
        return state

    def group(self, state: _State) -> Hashable:
        first, _, path = state.request.prompt.partition(" ")
        if first == "break" and not Path(path).exists():
            Path(path).touch()
            return []  # type: ignore[return-value] # unhashable, which breaks the engine
        return "all"

    def step(self, states: Sequence[_State]) -> None:
        time.sleep(STEP)
        for state in states:
            first, _, path = state.request.prompt.partition(" ")
            if first == "die":
                os._exit(1)
            if first == "kill" and state.steps_left == state.request.steps // 2 and not Path(path).exists():
                Path(path).write_text(f"{os.getpid()}")
                os.kill(os.getpid(), signal.SIGKILL)
            state.steps_left -= 1
            if state.job.on_step:
                state.job.on_step(StepDone(state.request.steps - state.steps_left, state.request.steps))

    def finish(self, state: _State) -> Callable[[], Picture]:
        return lambda: picture_of(state.request)

    def memory_bytes(self) -> int:
        return SIZE

    def device_memory(self) -> DeviceMemory:
        return DeviceMemory("scripted", 10 * SIZE, 5 * SIZE)


def _processor(model: str) -> str:
    """Return the same processor in all processes, or for a model ``odd PATH`` another one in all but the first."""
    first, _, path = model.partition(" ")
    if first != "odd":
        return "usual"
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return "unusual"
    return "usual"


def picture_of(request: ResolvedRequest) -> Picture:
    """Return the worker's picture: noise from the seed."""
    noise = np.random.default_rng(request.seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Picture(encode_png(noise), request.seed, bytes(512))
