"""What a server writes to its log."""

from __future__ import annotations

import logging

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from imagegen_core.redaction import redact


class _Redacting(JsonFormatter):
    """Writes a record without the secrets of URLs in it, those of a traceback included."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        return redact(super().format(record))


def log_as_json() -> None:
    """One JSON object a line on stderr, with what a record carries beside its message, such as ``request_id``."""
    handler = logging.StreamHandler()
    names = {"asctime": "time", "levelname": "level"}
    unsaid = [*RESERVED_ATTRS, "color_message"]  # which uvicorn says twice
    form = "{asctime}{levelname}{name}{message}"
    handler.setFormatter(_Redacting(form, style="{", rename_fields=names, reserved_attrs=unsaid))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("imagegen_core", "uvicorn"):
        logging.getLogger(name).setLevel(logging.INFO)
