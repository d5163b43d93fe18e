"""Tell a worker about states that are gone."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from imagegen_core.worker import DenoisingState, ReleasesStates

logger = logging.getLogger(__name__)


def release(worker: Any, states: Iterable[DenoisingState]) -> None:
    """Release states that no one will finish, if the worker has a use for this; log its errors."""
    if not isinstance(worker, ReleasesStates):
        return
    for state in states:
        try:
            worker.dropped(state)
        except Exception:  # an error of the worker's own must not end the engine
            logger.exception("%s failed to release a state", type(worker).__name__)
