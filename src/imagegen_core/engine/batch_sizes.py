"""The batch size of each group of one worker."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

from imagegen_core.engine.batch_size import BatchSize
from imagegen_core.engine.calibration import calibrate
from imagegen_core.engine.report import GroupReport
from imagegen_core.engine.verdicts import VerdictCache
from imagegen_core.worker import DenoisingState, LimitsRows, SteppedWorker

_KEPT = 64


class BatchSizes:
    """The sizes of the native shape, which is calibrated at once, and of the most recent other shapes.

    Attributes:
        native: The size of the native shape.
        because: How requests share forward passes, or why they do not, in a sentence.
    """

    def __init__(self, worker: SteppedWorker[Any], verdicts: VerdictCache, *, exact: bool) -> None:
        """Calibrate the native shape.

        Args:
            worker: The worker.
            verdicts: The verdicts of the worker's earlier proofs.
            exact: Whether rows share a pass only after a proof.
        """
        self._worker, self._verdicts, self._exact = worker, verdicts, exact
        self.native = BatchSize(exact=exact)
        key, self.because = calibrate(worker, self.native, verdicts)
        self._sizes: OrderedDict[Hashable, BatchSize] = OrderedDict({key: self.native})
        self._largest = self.native.fits

    def of(self, key: Hashable, state: DenoisingState) -> BatchSize:
        """Return the batch size of a group, for the memory that is free now.

        Args:
            key: The group's key.
            state: A state of the group.
        """
        if key not in self._sizes:
            self._sizes[key] = BatchSize(exact=self._exact, fits=self._largest)
            self._verdicts.restore(key, self._sizes[key])
            if len(self._sizes) > _KEPT:
                del self._sizes[next(known for known, size in self._sizes.items() if size is not self.native)]
        self._sizes.move_to_end(key)
        size = self._sizes[key]
        if isinstance(self._worker, LimitsRows):
            size.fits_now = self._worker.rows_that_fit(state)
        return size

    def reports(self) -> tuple[GroupReport, ...]:
        """Return a report of each group."""
        return tuple(GroupReport.of(key, size) for key, size in self._sizes.items())
