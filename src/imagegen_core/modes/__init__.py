"""Modes: a checkpoint, the LoRAs it always draws with, and defaults, under a name that requests can ask for."""

from imagegen_core.modes.mode import DEFAULT_MODE, Mode, ModelKey, ModeSet
from imagegen_core.modes.reading import load_modes, modes_path

__all__ = ["DEFAULT_MODE", "Mode", "ModeSet", "ModelKey", "load_modes", "modes_path"]
