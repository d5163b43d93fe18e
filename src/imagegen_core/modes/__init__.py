"""Modes for requests: each is a name for a checkpoint, its LoRAs, and defaults."""

from imagegen_core.modes.loader import load_modes, modes_path
from imagegen_core.modes.mode import DEFAULT_MODE, Mode, ModelKey, ModeSet

__all__ = ["DEFAULT_MODE", "Mode", "ModeSet", "ModelKey", "load_modes", "modes_path"]
