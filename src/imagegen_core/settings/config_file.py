"""Read a configuration file safely."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from imagegen_core.errors import SettingsError

_MAX_BYTES = 256 * 1024


def read_config(path: Path) -> str:
    """Return the text of a configuration file; a pipe or device does not block.

    Raises:
        OSError: It cannot be opened.
        SettingsError: It is no regular file, is larger than 256 KiB, or is not UTF-8.
    """
    with open(path, "rb", opener=_open) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode) and str(path) != os.devnull:
            raise SettingsError(f"Cannot read {path}: it is a pipe or device; name a regular file")
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise SettingsError(f"Cannot read {path}: it is larger than {_MAX_BYTES} bytes; name a configuration file")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise SettingsError(f"Cannot read {path} ({error}): save it as UTF-8") from error


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
