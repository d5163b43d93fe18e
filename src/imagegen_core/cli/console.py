"""Where the command line's words go: data to stdout, everything said to people to stderr."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from imagegen_core.cli import streams


def data(line: str) -> None:
    """Write a line of data to stdout.

    Raises:
        BrokenPipeError: Nobody reads it any more.
        WriteError: It is closed, or the disk is full.
    """
    try:
        sys.stdout.write(f"{line}\n")
    except BrokenPipeError:
        raise
    except OSError as error:
        raise streams.cannot_write(error) from error


def json_data(value: Any) -> None:
    """Write `value` to stdout as indented JSON, with escapes where stdout's encoding is not Unicode's."""
    encoding = (sys.stdout.encoding or "").lower()
    data(json.dumps(value, indent=2, ensure_ascii=not encoding.startswith("utf")))


def say(line: str) -> None:
    """Tell the person at the terminal, if there is any."""
    try:
        sys.stderr.write(f"{line}\n")
    except OSError:  # there is nowhere left to say so
        streams.discard(sys.stderr)


def complain(sentence: str) -> None:
    """Tell what is wrong."""
    say(f"Error: {sentence}")


def table(columns: dict[str, list[str]]) -> None:
    """Show columns under their headings on stdout: a table for people, tab-separated lines for a pipe."""
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
    """Shows log records as lines to the person, above a progress bar where one runs."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record."""
        say(self.format(record))
