"""Self-test at load: check that batches keep pictures unchanged, and find the batch size."""

from __future__ import annotations

import math
import time
from collections.abc import Hashable
from typing import Protocol

from imagegen_core.engine.batch_size import BatchSize
from imagegen_core.engine.whole_job_worker import WholeJobWorker
from imagegen_core.errors import OutOfMemoryError
from imagegen_core.job import Job
from imagegen_core.request import GenerateRequest
from imagegen_core.worker import BatchInvariant, DenoisingState, SteppedWorker

_SECONDS = 1.2  # time limit: no larger size is tried later
_TIMES = 3
_PADDED_ROWS = 4
_PADDING_PAYS = 0.8  # a row of a padded pass must take less than this fraction of a single-row pass


class _BatchInvariantWorker(SteppedWorker[DenoisingState], BatchInvariant, Protocol):
    """A stepped worker that can prove its batches."""


def calibrate(worker: SteppedWorker[DenoisingState], size: BatchSize) -> tuple[Hashable, str]:
    """Prove and time batches at the checkpoint's native size, and set the worker's padding if it is needed.

    Args:
        worker: The worker.
        size: Receives the results.

    Returns:
        The native size's group key, and a sentence about how requests share forward passes or why they do not.
    """
    if isinstance(worker, WholeJobWorker):
        size.fits = 1
        return worker.kind, "the worker draws whole jobs, so they go one at a time"
    return worker.group(_states(worker, 1)[0]), _judge(worker, size)


def _judge(worker: SteppedWorker[DenoisingState], size: BatchSize) -> str:
    if not size.exact:
        _grow(worker, size)
        return "requests share forward passes unproven, as asked for: a picture may depend on its neighbours"
    if not isinstance(worker, BatchInvariant):
        size.fits = 1
        return "the worker cannot prove that batches leave its pictures as they are, so they go one at a time"
    _grow(worker, size)
    if not size.refused:
        return "requests share forward passes, each size once its results are proven to be those of each alone"
    if size.proven:
        return f"requests share forward passes of up to {max(size.proven)} rows; results of larger ones are others"
    if _pad(worker, size):
        return f"results depend on the number of rows here, so every forward pass is filled up to {_PADDED_ROWS}"
    size.fits = 1
    return "results depend on the number of rows here, so pictures are drawn one at a time"


def _grow(worker: SteppedWorker[DenoisingState], size: BatchSize) -> None:
    """Double the batch size while it is exact, faster per row, within memory and within the time limit."""
    ends, rows = time.monotonic() + _SECONDS, 1
    _time(worker, size, rows, ends)
    while size.rows == rows and 2 * rows <= size.fits and time.monotonic() < ends:
        rows *= 2
        try:
            if size.exact and isinstance(worker, BatchInvariant):
                size.tried(rows, same=worker.trial(_states(worker, rows)))
                if rows in size.refused:
                    return
            _time(worker, size, rows, ends)
        except OutOfMemoryError:
            size.halve(rows)


def _time(worker: SteppedWorker[DenoisingState], size: BatchSize, rows: int, ends: float = math.inf) -> None:
    """Time up to `_TIMES` steps; stop early after the time limit."""
    states = _states(worker, rows)
    for _ in range(_TIMES):
        began = time.monotonic()
        worker.step(states)
        size.timed(rows, time.monotonic() - began)
        if time.monotonic() > ends:
            return


def _pad(worker: _BatchInvariantWorker, size: BatchSize) -> bool:
    """Pad every pass to a fixed number of rows; keep it and return True if results are equal and it is faster."""
    alone = size.expected()
    worker.pad(_PADDED_ROWS)
    padded = BatchSize(exact=True, fits=_PADDED_ROWS)
    _time(worker, padded, _PADDED_ROWS)
    same = all(worker.trial(_states(worker, rows)) for rows in range(2, _PADDED_ROWS + 1))
    if same and padded.expected() / _PADDED_ROWS < _PADDING_PAYS * alone:
        size.fits = size.rows = _PADDED_ROWS
        size.refused.clear()
        size.proven.update(range(2, _PADDED_ROWS + 1))
        return True
    worker.pad(None)
    return False


def _states(worker: SteppedWorker[DenoisingState], count: int) -> list[DenoisingState]:
    requests = (GenerateRequest(prompt="a test", num_inference_steps=_TIMES + 1, seed=seed) for seed in range(count))
    return [worker.begin(Job(req=request)) for request in requests]
