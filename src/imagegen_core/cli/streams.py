"""The standard streams, including closed and full ones, and streams with other encodings or closed pipes."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

from imagegen_core.errors import WriteError

_STDIN, _STDOUT, _STDERR = range(3)


def prepare() -> None:
    """Make the standard streams usable, whatever the process was started with.

    The next opened file would get the number of a closed descriptor, and a library's output would go into that file.
    Characters that the terminal's encoding lacks are written as escapes.
    """
    for descriptor, flags in ((_STDIN, os.O_RDONLY), (_STDOUT, os.O_RDONLY), (_STDERR, os.O_WRONLY)):
        if _is_closed(descriptor):
            os.open(os.devnull, flags)  # takes the lowest free number; stdout still refuses writes
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(_STDOUT, "w", closefd=False)), encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(io.BufferedWriter(io.FileIO(_STDERR, "w", closefd=False)), encoding="utf-8")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Write all buffered output to stdout.

    Raises:
        BrokenPipeError: The reader closed the pipe.
        WriteError: It is closed, or the disk is full.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise cannot_write(error) from error


def cannot_write(error: OSError) -> WriteError:
    """Return the error to raise after a failed write to stdout."""
    return WriteError(f"Cannot write to stdout: {error.strerror}")


def discard(stream: TextIO) -> None:
    """Discard a stream's buffered and later output, so that Python does not try to write it at exit.

    See https://docs.python.org/3/library/signal.html#note-on-sigpipe.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, stream.fileno())
    except (OSError, ValueError):  # the program replaced the stream by one without a descriptor
        pass
    finally:
        os.close(null)


def _is_closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False
