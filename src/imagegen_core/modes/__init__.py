"""Modes: a checkpoint, the LoRAs it always draws with, and defaults, under a name that requests can ask for."""

from imagegen_core.modes.loader import load_modes, modes_path
from imagegen_core.modes.mode import DEFAULT_MODE, Mode, ModelKey, ModeSet

__all__ = ["DEFAULT_MODE", "Mode", "ModeSet", "ModelKey", "load_modes", "modes_path"]
