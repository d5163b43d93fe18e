"""Load the modes from tables of ``imagegen.toml``, or from the ``modes.yaml`` of earlier servers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from imagegen_core.errors import SettingsError
from imagegen_core.modes.mode import DEFAULT_MODE, Mode, ModeSet
from imagegen_core.modes.yaml_file import YamlModes, read_yaml
from imagegen_core.paths import expanded
from imagegen_core.settings import LoraSettings, ModeSettings, Settings
from imagegen_core.styles import LoraUse

_NAMES = ("modes.yaml", "modes.yml")


def load_modes(settings: Settings) -> ModeSet:
    """Load the configured modes, or one mode for the whole configuration.

    Raises:
        SettingsError: A file is malformed or unreadable, a key or the default mode is unknown, or modes are configured
            in both places.
    """
    path = modes_path(settings)
    if path is not None and settings.modes:
        raise SettingsError(f"Modes are configured in {settings.source('modes')}, and in {path}: keep one of the two")
    if path is not None:
        return _from_yaml(read_yaml(path), path, settings)
    if not settings.modes:
        return _unconfigured(settings)
    default = settings.default_mode or next(iter(settings.modes))
    if default not in settings.modes:
        raise SettingsError(
            f"Unknown mode in {settings.source('default_mode')}, {default!r}: expected {' or '.join(settings.modes)}"
        )
    root = settings.lora_root or settings.model_root or Path()
    return ModeSet(_modes(settings.modes, settings, root), default)


def modes_path(settings: Settings) -> Path | None:
    """Locate ``modes.yaml``: the configured one, else one next to a configuration file or in the working directory.

    Raises:
        SettingsError: The configured file does not exist.
    """
    named = settings.modes_file
    if named is None:
        folders = [file.parent for file in reversed(settings.files)] if settings.files else [Path()]
        return next((folder / name for folder in folders for name in _NAMES if (folder / name).exists()), None)
    paths = [named / name for name in _NAMES if (named / name).exists()] if named.is_dir() else [named]
    if not paths or not paths[0].exists():
        raise SettingsError(f"There is no file of modes {named}: correct {settings.source('modes_file')}")
    return paths[0]


def _from_yaml(read: YamlModes, path: Path, settings: Settings) -> ModeSet:
    default = settings.default_mode or read.default_mode
    if default not in read.modes:
        source = settings.source("default_mode") if settings.default_mode else f"default_mode in {path}"
        raise SettingsError(f"Unknown mode in {source}, {default!r}: expected {' or '.join(read.modes)}")
    rooted = settings.override(model_root=read.model_root)
    return ModeSet(_modes(read.modes, rooted, read.lora_root), default)


def _modes(tables: Mapping[str, ModeSettings], settings: Settings, lora_root: Path) -> dict[str, Mode]:
    return {
        name: Mode(
            name,
            settings.override(model=table.model, backend=table.backend, prediction=table.prediction),
            table,
            tuple(_lora(lora, lora_root) for lora in table.loras),
        )
        for name, table in tables.items()
    }


def _lora(table: LoraSettings, root: Path) -> LoraUse:
    return LoraUse(root / expanded(table.path), table.strength, table.adapter_name or f"lora_{table.path.stem}")


def _unconfigured(settings: Settings) -> ModeSet:
    if settings.default_mode not in (None, DEFAULT_MODE):
        raise SettingsError(
            f"Unknown mode in {settings.source('default_mode')}, {settings.default_mode!r}: no modes are configured; "
            "add [modes.NAME] tables to imagegen.toml, or a modes.yaml"
        )
    return ModeSet({DEFAULT_MODE: Mode(DEFAULT_MODE, settings, ModeSettings())}, DEFAULT_MODE, configured=False)
