"""Control the console output of diffusers and transformers, and read their errors."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the libraries' progress bars and their note about torchvision; nothing here needs torchvision."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    loggers = (diffusers_logging, transformers_logging)
    shown = [library.is_progress_bar_enabled() for library in loggers]
    importing = logging.getLogger("transformers.utils.import_utils")
    importing.addFilter(_no_torchvision)
    for library in loggers:
        library.disable_progress_bar()
    try:
        yield
    finally:
        importing.removeFilter(_no_torchvision)
        for library, was_shown in zip(loggers, shown, strict=True):
            if was_shown:
                library.enable_progress_bar()


def _no_torchvision(record: logging.LogRecord) -> bool:
    return "requires torchvision" not in record.getMessage()
