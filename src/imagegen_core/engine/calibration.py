"""Self-test at load: prove that batches keep pictures unchanged, and time the first batch sizes.

Neither changes a picture: a picture's bytes follow from the worker's numerics plan. A proof decides whether pictures
share a pass, and a timing how many of them.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from imagegen_core.engine.batch_size import BatchSize
from imagegen_core.engine.releasing import release
from imagegen_core.engine.verdicts import VerdictCache
from imagegen_core.engine.whole_job_worker import WholeJobWorker
from imagegen_core.errors import OutOfMemoryError
from imagegen_core.job import Job
from imagegen_core.request import GenerateRequest
from imagegen_core.worker import BatchInvariant, DenoisingState, LimitsRows, SteppedWorker

_SECONDS = 1.2  # time limit: no larger size is tried later
_TIMES = 3


def calibrate(worker: SteppedWorker[DenoisingState], size: BatchSize, verdicts: VerdictCache) -> tuple[Hashable, str]:
    """Prove and time batches at the checkpoint's native size.

    Args:
        worker: The worker.
        size: Receives the results.
        verdicts: The verdicts of earlier proofs; a known number of rows is not proven again.

    Returns:
        The native size's group key, and a sentence about how requests share forward passes or why they do not.
    """
    if isinstance(worker, WholeJobWorker):
        size.fits = 1
        return worker.kind, "the worker draws whole jobs, so they go one at a time"
    with _states(worker, 1) as (state,):
        group = worker.group(state)
        if isinstance(worker, LimitsRows):
            size.fits_now = worker.rows_that_fit(state)
    verdicts.restore(group, size)
    because = _judge(worker, size)
    verdicts.keep(group, size)
    return group, because


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
    size.fits = 1
    return "results depend on the number of rows here, so pictures are drawn one at a time"


def _grow(worker: SteppedWorker[DenoisingState], size: BatchSize) -> None:
    """Double the batch size while it is exact, faster per row, within memory and within the time limit."""
    ends, rows = time.monotonic() + _SECONDS, 1
    _time(worker, size, rows, ends)
    while size.rows == rows and 2 * rows <= min(size.fits, size.fits_now) and time.monotonic() < ends:
        rows *= 2
        try:
            if rows in size.refused:
                return
            if size.needs_trial(rows, rows) and isinstance(worker, BatchInvariant):
                with _states(worker, rows) as states:
                    same = worker.trial(states)
                    if all(state.failure is not None for state in states):  # failed states prove nothing
                        return
                    size.tried(rows, same=same)
                if not same:
                    return
            _time(worker, size, rows, ends)
        except OutOfMemoryError:
            size.halve(rows)


def _time(worker: SteppedWorker[DenoisingState], size: BatchSize, rows: int, ends: float) -> None:
    """Time up to `_TIMES` steps; stop early after the time limit."""
    with _states(worker, rows) as states:
        for _ in range(_TIMES):
            began = time.monotonic()
            worker.step(states)
            size.timed(rows, time.monotonic() - began)
            if time.monotonic() > ends:
                return


@contextmanager
def _states(worker: SteppedWorker[DenoisingState], count: int) -> Iterator[list[DenoisingState]]:
    """Begin states of the native size, and release them at the end."""
    states: list[DenoisingState] = []
    try:
        for seed in range(count):
            request = GenerateRequest(prompt="a test", num_inference_steps=_TIMES + 1, seed=seed)
            states.append(worker.begin(Job(req=request)))
        yield states
    finally:
        release(worker, states)
