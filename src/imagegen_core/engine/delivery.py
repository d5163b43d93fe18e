"""Give finished pictures and errors to their tickets."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from imagegen_core.engine.ticket import Ticket
from imagegen_core.errors import ImagegenError
from imagegen_core.picture import Picture

logger = logging.getLogger(__name__)

_ENCODERS = 2

Process = Callable[[Picture, Any], Picture]
"""Changes a finished picture of a request."""


class Delivery:
    """Encodes and changes pictures on threads of its own, so that the next step does not wait."""

    def __init__(self, most: int) -> None:
        """Start without pictures; at most `most` are changed at once."""
        self._encoders = ThreadPoolExecutor(_ENCODERS, thread_name_prefix="imagegen-encoder")
        self._processors = ThreadPoolExecutor(most, thread_name_prefix="imagegen-processor")

    def deliver(self, ticket: Ticket, encode: Callable[[], Picture], process: Process | None) -> None:
        """Encode a picture, change it, and give it to its ticket; or give the error."""
        self._encoders.submit(self._encode, ticket, encode, process)

    def close(self, *, drain: bool) -> None:
        """Finish the encoding of all pictures; without `drain`, drop the changes that have not begun."""
        self._encoders.shutdown()
        self._processors.shutdown(wait=drain, cancel_futures=not drain)

    def _encode(self, ticket: Ticket, encode: Callable[[], Picture], process: Process | None) -> None:
        try:
            picture = encode()
            if process is None:
                ticket.draw(picture)
            else:
                self._processors.submit(_change, ticket, picture, process)
        except Exception as error:  # noqa: BLE001 - any error fails only this job
            fail(ticket, error)


def fail(ticket: Ticket, error: Exception) -> None:
    """Give an error to a ticket, and log it unless it is one of imagegen's sentences."""
    if not isinstance(error, ImagegenError):
        logger.error("A picture failed: %r", error, exc_info=error)
    ticket.fail(error)


def _change(ticket: Ticket, picture: Picture, process: Process) -> None:
    try:
        ticket.draw(process(picture, ticket.job.req))
    except Exception as error:  # noqa: BLE001 - any error fails only this job
        fail(ticket, error)
