"""Whether the machine has a GPU for drawing, told without torch."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

# The devices of NVIDIA's driver, also under WSL, and of AMD's.
_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


def may_have_gpu() -> bool:
    """Return whether the machine may have a GPU that torch draws with; on Linux its drivers' devices tell."""
    if sys.platform == "linux":
        return any(Path(device).exists() for device in _DEVICES)
    return sys.platform != "darwin" or platform.machine() == "arm64"
