"""What a server writes to its log."""

from __future__ import annotations

import logging

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter


def log_as_json() -> None:
    """One JSON object a line on stderr, with what a record carries beside its message, such as ``request_id``."""
    handler = logging.StreamHandler()
    names = {"asctime": "time", "levelname": "level"}
    unsaid = [*RESERVED_ATTRS, "color_message"]  # which uvicorn says twice
    form = "{asctime}{levelname}{name}{message}"
    handler.setFormatter(JsonFormatter(form, style="{", rename_fields=names, reserved_attrs=unsaid))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("imagegen_core", "uvicorn"):
        logging.getLogger(name).setLevel(logging.INFO)
