"""The author of a new project."""

from __future__ import annotations

import getpass
import subprocess

_LIMIT = 10.0  # seconds


def find_author() -> str:
    """Return the name in the user's git configuration, or else the name of the user's account."""
    command = ["git", "config", "--get", "user.name"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_LIMIT, check=False)  # noqa: S603
        name = " ".join(done.stdout.decode(errors="replace").split())
    except (OSError, subprocess.SubprocessError):  # git is not installed, or does not answer
        name = ""
    try:
        return name or getpass.getuser()
    except (KeyError, OSError):  # a container may have no account
        return "unknown"
