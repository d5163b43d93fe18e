"""A plugin with a worker without torch and GPU: a step sleeps for the time of a busy GPU.

It replaces missing GPUs; the parts around them (queues, batching, Ray, HTTP) are real. The worker's constructor reads
these variables:

- ``SIMULATED_STEP_SECONDS`` (0): seconds of a step, for any number of rows,
- ``SIMULATED_ROW_SECONDS`` (0.125): more seconds of a step for each row,
- ``SIMULATED_DECODE_SECONDS`` (0): seconds of a picture's decoding,
- ``SIMULATED_PICTURE_BYTES`` (0): the minimum size of a picture's PNG; a preview has 1/64 of it.
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
    """Return the backend."""
    return [Backend(name=NAME, summary="sleeps", worker=f"{MODULE}:SimulatedWorker", default_size=f"{_SIDE}x{_SIDE}")]


def installed(folder: Path) -> dict[str, str]:
    """Install the plugin in a folder, and return the environment variables for a child process to use it."""
    info = folder / f"imagegen_{NAME}-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: imagegen-{NAME}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[imagegen.plugins]\n{NAME} = {MODULE}\n")
    places = [str(folder), str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    return {"BACKEND": NAME, "PYTHONPATH": os.pathsep.join(filter(None, places))}


class _State:
    """A job and its remaining steps."""

    rows = 1
    failure: Exception | None = None

    def __init__(self, job: Job) -> None:
        self.job = job
        self.request = ResolvedRequest.of(job.req, native_size=f"{_SIDE}x{_SIDE}")
        self.steps_left = self.request.steps


class SimulatedWorker:
    """Sleeps, and draws noise from the seed."""

    native_size = f"{_SIDE}x{_SIDE}"

    def __init__(self, worker_id: int = 0, settings: Any = None) -> None:  # noqa: ARG002 - the signature of workers
        self.worker_id = worker_id
        self._step = float(os.environ.get("SIMULATED_STEP_SECONDS", "0"))
        self._row = float(os.environ.get("SIMULATED_ROW_SECONDS", ROW_SECONDS))
        self._decode = float(os.environ.get("SIMULATED_DECODE_SECONDS", "0"))
        size = int(os.environ.get("SIMULATED_PICTURE_BYTES", "0"))
        self._padding, self._preview = _chunk(bytes(size)), bytes(size // 64)

    def run_job(self, job: Job) -> tuple[bytes, int]:
        """Draw a job; see `Worker`."""
        return self.run_job_with_latents(job)[:2]

    def run_job_with_latents(self, job: Job) -> tuple[bytes, int, bytes]:
        """Draw a job; see `Worker`."""
        state = self.begin(job)
        while state.steps_left:
            self.step([state])
        picture = self.finish(state)()
        return picture.png, picture.seed, picture.latents

    def begin(self, job: Job) -> _State:
        """Begin a job; see `SteppedWorker`."""
        return _State(job)

    def group(self, _state: _State) -> Hashable:
        """Return the same group for all requests."""
        return NAME

    def step(self, states: Sequence[_State]) -> None:
        """Sleep for the time of a step."""
        time.sleep(self._step + self._row * len(states))
        for state in states:
            state.steps_left -= 1
            if state.job.on_step:
                state.job.on_step(StepDone(state.request.steps - state.steps_left, state.request.steps))

    def trial(self, states: Sequence[_State]) -> bool:
        """Take a step, and return True: other requests change no picture."""
        self.step(states)
        return True

    def finish(self, state: _State) -> Callable[[], Picture]:
        """Sleep for the time of decoding."""
        time.sleep(self._decode)
        return lambda: Picture(self._png(state.request.seed), state.request.seed, _LATENTS)

    def preview(self, _state: _State) -> bytes:
        """Return as many bytes as a picture has with an eighth of the width and height."""
        return self._preview

    def memory_bytes(self) -> int:
        """Return the model's memory; see `ReportsMemory`."""
        return _MODEL_BYTES

    def device_memory(self) -> DeviceMemory:
        """Return the device's memory; see `ReportsMemory`."""
        return DeviceMemory(NAME, _DEVICE_BYTES, _DEVICE_BYTES // 2)

    def _png(self, seed: int) -> bytes:
        """Return a PNG of noise from the seed; a chunk ignored by readers fills it up to the configured size."""
        noise = np.random.default_rng(seed).integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)
        png = encode_png(noise)
        return png[:-_END] + self._padding + png[-_END:]


def _chunk(data: bytes) -> bytes:
    """Return a private PNG chunk, or no bytes without data."""
    kind = b"paDd"
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) if data else b""
