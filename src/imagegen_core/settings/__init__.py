"""Settings: configuration from arguments, the environment and ``imagegen.toml``, each value with its source."""

from imagegen_core.settings.settings import Settings
from imagegen_core.settings.sources import variables
from imagegen_core.settings.tables import LoraSettings, ModeSettings, ModeTables, StyleSettings
from imagegen_core.settings.values import ByteCount, DeviceNames, MemorySize, PredictionName

__all__ = [
    "ByteCount",
    "DeviceNames",
    "LoraSettings",
    "MemorySize",
    "ModeSettings",
    "ModeTables",
    "PredictionName",
    "Settings",
    "StyleSettings",
    "variables",
]
