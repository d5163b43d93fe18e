"""Paths as people write them."""

from __future__ import annotations

from pathlib import Path

from imagegen_core.errors import SettingsError


def expanded(path: str | Path) -> Path:
    """A path whose ``~`` or ``~NAME`` at the beginning is the home folder.

    Raises:
        SettingsError: There is no such home folder, as for a container's user without an entry in ``/etc/passwd``.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        start = Path(path).parts[0]
        raise SettingsError(
            f"No home folder is known for {start} in {path}: set HOME, or write the whole path"
        ) from error
