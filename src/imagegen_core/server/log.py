"""The server's log format."""

from __future__ import annotations

import logging

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from imagegen_core.redaction import redact


class _Redacting(JsonFormatter):
    """Format a record as JSON, and remove secrets in URLs, also in tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line of JSON."""
        return redact(super().format(record))


def log_as_json() -> None:
    """Log to stderr as one JSON object per line, with a record's extra fields such as ``request_id``."""
    handler = logging.StreamHandler()
    names = {"asctime": "time", "levelname": "level"}
    unsaid = [*RESERVED_ATTRS, "color_message"]  # uvicorn's colored copy of the message
    form = "{asctime}{levelname}{name}{message}"
    handler.setFormatter(_Redacting(form, style="{", rename_fields=names, reserved_attrs=unsaid))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("imagegen_core", "uvicorn"):
        logging.getLogger(name).setLevel(logging.INFO)
