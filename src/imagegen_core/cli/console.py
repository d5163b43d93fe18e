"""The output of the command line: data to stdout, messages to stderr."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from imagegen_core.cli import streams


def data(line: str) -> None:
    """Write a line of data to stdout.

    Raises:
        BrokenPipeError: The reader closed the pipe.
        WriteError: It is closed, or the disk is full.
    """
    try:
        sys.stdout.write(f"{line}\n")
    except BrokenPipeError:
        raise
    except OSError as error:
        raise streams.cannot_write(error) from error


def json_data(value: Any) -> None:
    """Write `value` to stdout as indented JSON, with escapes if stdout's encoding is not Unicode's."""
    encoding = (sys.stdout.encoding or "").lower()
    data(json.dumps(value, indent=2, ensure_ascii=not encoding.startswith("utf")))


def say(line: str) -> None:
    """Write a message to stderr, if it is open."""
    try:
        sys.stderr.write(f"{line}\n")
    except OSError:  # stderr is the last place for a message
        streams.discard(sys.stderr)


def complain(sentence: str) -> None:
    """Write an error message."""
    say(f"Error: {sentence}")


def table(columns: dict[str, list[str]]) -> None:
    """Print columns with headings to stdout: a table on a terminal, tab-separated lines in a pipe."""
    rows = list(zip(*columns.values(), strict=True))
    if not sys.stdout.isatty():
        for row in rows:
            data("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table

    drawn = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        drawn.add_row(*row)
    Console().print(drawn)


class LogHandler(logging.Handler):
    """Prints log records as messages, above a progress bar if one is active."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        say(self.format(record))
