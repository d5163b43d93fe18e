"""A plugin whose worker needs no torch and no GPU: a step sleeps for as long as a GPU would be busy.

It stands for GPUs where there are none: what is around them (queues, batching, Ray, HTTP) is the real thing. These
variables, which the worker's constructor reads, say what is simulated:

- ``SIMULATED_STEP_SECONDS`` (0): of a step, however many rows it has,
- ``SIMULATED_ROW_SECONDS`` (0.125): of a step, for each of its rows,
- ``SIMULATED_DECODE_SECONDS`` (0): of a picture's end,
- ``SIMULATED_PICTURE_BYTES`` (0): how large a picture's PNG is at least; a preview has a 64th of that.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imagegen_core import Backend, DeviceMemory, Job, Picture, encode_png, hookimpl
from imagegen_core.job import StepDone
from imagegen_core.request import ResolvedRequest

ROW_SECONDS = 0.125
NAME, MODULE = "simulated", "benchmarks.simulated"
_SIDE = 8
_LATENTS = bytes(512)
_MODEL_BYTES, _DEVICE_BYTES = 100, 1000
_END = 12  # bytes of a PNG's last chunk


@hookimpl
def imagegen_backends() -> list[Backend]:
    """The one backend."""
    return [Backend(name=NAME, summary="sleeps", worker=f"{MODULE}:SimulatedWorker", default_size=f"{_SIDE}x{_SIDE}")]


def installed(folder: Path) -> dict[str, str]:
    """Install the plugin in a folder, and say what a child process needs in its environment to draw with it."""
    info = folder / f"imagegen_{NAME}-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: imagegen-{NAME}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[imagegen.plugins]\n{NAME} = {MODULE}\n")
    places = [str(folder), str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    return {"BACKEND": NAME, "PYTHONPATH": os.pathsep.join(filter(None, places))}


class _State:
    """A job, and its steps to go."""

    rows = 1
    failure: Exception | None = None

    def __init__(self, job: Job) -> None:
        self.job = job
        self.request = ResolvedRequest.of(job.req, native_size=f"{_SIDE}x{_SIDE}")
        self.steps_left = self.request.steps


class SimulatedWorker:
    """Sleeps, and draws noise of the seed."""

    native_size = f"{_SIDE}x{_SIDE}"

    def __init__(self, worker_id: int = 0, settings: Any = None) -> None:  # noqa: ARG002 - as workers are made
        self.worker_id = worker_id
        self._step = float(os.environ.get("SIMULATED_STEP_SECONDS", "0"))
        self._row = float(os.environ.get("SIMULATED_ROW_SECONDS", ROW_SECONDS))
        self._decode = float(os.environ.get("SIMULATED_DECODE_SECONDS", "0"))
        size = int(os.environ.get("SIMULATED_PICTURE_BYTES", "0"))
        self._padding, self._preview = _chunk(bytes(size)), bytes(size // 64)

    def run_job(self, job: Job) -> tuple[bytes, int]:
        """As a `Worker` does."""
        return self.run_job_with_latents(job)[:2]

    def run_job_with_latents(self, job: Job) -> tuple[bytes, int, bytes]:
        """As a `Worker` does."""
        state = self.begin(job)
        while state.steps_left:
            self.step([state])
        picture = self.finish(state)()
        return picture.png, picture.seed, picture.latents

    def begin(self, job: Job) -> _State:
        """As a `SteppedWorker` does."""
        return _State(job)

    def group(self, _state: _State) -> Hashable:
        """All together."""
        return NAME

    def step(self, states: Sequence[_State]) -> None:
        """Take the time of a step."""
        time.sleep(self._step + self._row * len(states))
        for state in states:
            state.steps_left -= 1
            if state.job.on_step:
                state.job.on_step(StepDone(state.request.steps - state.steps_left, state.request.steps))

    def trial(self, states: Sequence[_State]) -> bool:
        """Company changes no picture."""
        self.step(states)
        return True

    def pad(self, rows: int | None) -> None:
        """Nothing depends on the number of rows."""

    def finish(self, state: _State) -> Callable[[], Picture]:
        """Take the time of decoding."""
        time.sleep(self._decode)
        return lambda: Picture(self._png(state.request.seed), state.request.seed, _LATENTS)

    def preview(self, _state: _State) -> bytes:
        """As many bytes as a picture of an eighth of the width and height has."""
        return self._preview

    def memory_bytes(self) -> int:
        """As `ReportsMemory` does."""
        return _MODEL_BYTES

    def device_memory(self) -> DeviceMemory:
        """As `ReportsMemory` does."""
        return DeviceMemory(NAME, _DEVICE_BYTES, _DEVICE_BYTES // 2)

    def _png(self, seed: int) -> bytes:
        """Noise of the seed, as large as was asked for by a chunk that readers skip."""
        noise = np.random.default_rng(seed).integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)
        png = encode_png(noise)
        return png[:-_END] + self._padding + png[-_END:]


def _chunk(data: bytes) -> bytes:
    """A PNG's chunk of a private kind; none, where there is no data."""
    kind = b"paDd"
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) if data else b""
