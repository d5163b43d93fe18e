"""Expand paths from user input."""

from __future__ import annotations

from pathlib import Path

from imagegen_core.errors import SettingsError


def expanded(path: str | Path) -> Path:
    """Replace ``~`` or ``~NAME`` at the start of a path by the home folder.

    Raises:
        SettingsError: The home folder is unknown, as for a container's user without an entry in ``/etc/passwd``.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        start = Path(path).parts[0]
        raise SettingsError(
            f"No home folder is known for {start} in {path}: set HOME, or write the whole path"
        ) from error
