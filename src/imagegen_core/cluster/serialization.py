"""Convert events and errors for pickling between replica and ingress."""

from __future__ import annotations

from typing import Any

from imagegen_core import errors
from imagegen_core.errors import ImagegenError
from imagegen_core.job import Event, Failed

_CARRIED = ("field", "retry_after")  # attributes of this package's errors, besides the message


def portable(event: Event) -> Event:
    """Return a picklable form of an event."""
    return Failed(portable_error(event.error)) if isinstance(event, Failed) else event


def portable_error(error: Exception) -> Exception:
    """Return a picklable form of an error: its nearest base class in `imagegen_core.errors`.

    A plugin's or library's own error may fail to unpickle, or would import torch in a process without it.
    """
    if not isinstance(error, ImagegenError):
        return RuntimeError(f"{type(error).__name__}: {error}")
    kind: Any = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    sent: Exception = kind(str(error), **{name: value for name, value in vars(error).items() if name in _CARRIED})
    return sent
