"""The standard streams, also where they are closed, full, of another encoding, or read by nobody any more."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

from imagegen_core.errors import WriteError

_STDIN, _STDOUT, _STDERR = range(3)


def prepare() -> None:
    """Make the standard streams usable whatever the process was started with.

    A closed descriptor would be given to the next file that is opened, and what a library prints would go into that
    file. What the terminal's encoding lacks is written as an escape.
    """
    for descriptor, flags in ((_STDIN, os.O_RDONLY), (_STDOUT, os.O_RDONLY), (_STDERR, os.O_WRONLY)):
        if _is_closed(descriptor):
            os.open(os.devnull, flags)  # takes the lowest number that is free; stdout still refuses what is written
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(_STDOUT, "w", closefd=False)), encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(io.BufferedWriter(io.FileIO(_STDERR, "w", closefd=False)), encoding="utf-8")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Have everything written to stdout.

    Raises:
        BrokenPipeError: Nobody reads it any more.
        WriteError: It is closed, or the disk is full.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise cannot_write(error) from error


def cannot_write(error: OSError) -> WriteError:
    """The error to raise where writing to stdout raised `error`."""
    return WriteError(f"Cannot write to stdout: {error.strerror}")


def discard(stream: TextIO) -> None:
    """Give up what a stream holds and gets, so that Python does not try to write it when the process ends.

    See https://docs.python.org/3/library/signal.html#note-on-sigpipe.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, stream.fileno())
    except (OSError, ValueError):  # a stream of the program's own, without a descriptor
        pass
    finally:
        os.close(null)


def _is_closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False
