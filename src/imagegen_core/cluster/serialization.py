"""What crosses from a replica to the front: events, pickled, and with errors that the other side can read."""

from __future__ import annotations

from typing import Any

from imagegen_core import errors
from imagegen_core.errors import ImagegenError
from imagegen_core.job import Event, Failed

_CARRIED = ("field", "retry_after")  # what errors of ours hold beside their message


def portable(event: Event) -> Event:
    """The event as it can be sent."""
    return Failed(portable_error(event.error)) if isinstance(event, Failed) else event


def portable_error(error: Exception) -> Exception:
    """The error as it can be sent: of the nearest kind in `imagegen_core.errors`.

    A plugin's or a library's own may not unpickle, or would import torch where nothing else does.
    """
    if not isinstance(error, ImagegenError):
        return RuntimeError(f"{type(error).__name__}: {error}")
    kind: Any = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    sent: Exception = kind(str(error), **{name: value for name, value in vars(error).items() if name in _CARRIED})
    return sent
