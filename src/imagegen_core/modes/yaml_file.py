"""Read ``modes.yaml`` in the form of earlier servers: roots, a default mode, and modes with their LoRAs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from imagegen_core.errors import SettingsError
from imagegen_core.paths import expanded
from imagegen_core.request import shown
from imagegen_core.settings import LoraSettings, ModeSettings, ModeTables
from imagegen_core.settings.config_file import read_config

_MAX_ENTRIES, _MAX_DEPTH = 10_000, 32
_TOO_DEEP = f"it is nested over {_MAX_DEPTH} levels deep, or contains itself; write it out"

# The defaults of those servers for keys that a mode leaves out.
_DEFAULTS = {"default_size": "512x512", "default_steps": 4, "default_guidance": 1.0}


class _File(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model_root: Path
    lora_root: Path | None = None
    default_mode: str
    modes: ModeTables = Field(min_length=1)


class YamlModes(BaseModel):
    """The content of a ``modes.yaml``.

    Attributes:
        model_root: The base folder of checkpoints' names.
        lora_root: The base folder of LoRAs' names.
        default_mode: The name of the default mode.
        modes: The modes by name, including the earlier servers' own defaults.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    model_root: Path
    lora_root: Path
    default_mode: str
    modes: Mapping[str, ModeSettings]


def read_yaml(path: Path) -> YamlModes:
    """Read a file of modes.

    Raises:
        SettingsError: It cannot be read, is not valid YAML, or has an unknown key or a wrong value; the message names
            the line.
    """
    content, lines = _parse(path)
    try:
        file = _File.model_validate(_with_defaults(content))
    except ValidationError as error:
        raise SettingsError(_sentence(error, path, lines)) from error
    for name, table in file.modes.items():
        if table.model is None:
            raise SettingsError(
                f"Missing model in {path}{_at(('modes', name), lines)}, mode {name!r}: name a checkpoint"
            )
    root = expanded(file.model_root)
    lora_root = expanded(file.lora_root or root)
    return YamlModes(model_root=root, lora_root=lora_root, default_mode=file.default_mode, modes=file.modes)


Lines = Mapping[tuple[str, ...], int]
"""The line of each key, by the keys on the way to it."""


def _parse(path: Path) -> tuple[Any, Lines]:
    try:
        import yaml
    except ImportError as error:
        raise SettingsError(f"{path} cannot be read ({error}): pip install 'imagegen-core[server]'") from error
    try:
        loader = yaml.SafeLoader(read_config(path))
        root = loader.get_single_node()
        lines = _Lines(path)
        lines.note(root, ())
        return loader.construct_document(root) if root else None, lines.found
    except SettingsError:
        raise
    except OSError as error:
        raise SettingsError(
            f"Cannot read the modes {path} ({error.strerror}): correct its path or its rights"
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        said = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise SettingsError(f"Cannot read the modes {path}{where}: {said}") from error
    except RecursionError as error:
        raise SettingsError(f"Cannot read the modes {path}: {_TOO_DEEP}") from error
    except Exception as error:  # PyYAML lets errors of wrong values through, such as !!timestamp x AttributeError
        raise SettingsError(f"Cannot read the modes {path} ({error!r}): correct its YAML") from error


class _Lines:
    """Find the line of each key, and refuse too large or too deeply nested files.

    Attributes:
        found: The lines by keys.
    """

    def __init__(self, path: Path) -> None:
        self.found: dict[tuple[str, ...], int] = {}
        self._path, self._entries = path, 0

    def note(self, node: Any, keys: tuple[str, ...]) -> None:
        """Walk a parsed node; refuse duplicate keys, since YAML itself would silently keep the last.

        Raises:
            SettingsError: A key occurs twice or is no text, or a text is no Unicode. Or there are too many or
                too deeply nested entries, including those of aliases.
        """
        if node is None:
            return
        if node.id == "scalar":
            self._check_text(node)
            return
        for number, (key, value) in enumerate(
            node.value if node.id == "mapping" else [(None, item) for item in node.value]
        ):
            below = (*keys, str(number) if key is None else self._name(key))
            line = (value if key is None else key).start_mark.line + 1
            self._entries += 1
            if self._entries > _MAX_ENTRIES:
                raise SettingsError(f"Cannot read the modes {self._path}: it has over {_MAX_ENTRIES} entries")
            if len(below) > _MAX_DEPTH:
                raise SettingsError(f"Cannot read the modes {self._path}, line {line}: {_TOO_DEEP}")
            if below in self.found:
                raise SettingsError(
                    f"{self._path}, line {line}: the key {below[-1]!r} stands there a second time; keep one"
                )
            self.found[below] = line
            self.note(value, below)

    def _name(self, key: Any) -> str:
        if key.id != "scalar":
            raise SettingsError(f"{self._path}, line {key.start_mark.line + 1}: a key must be text")
        self._check_text(key)
        return str(key.value)

    def _check_text(self, node: Any) -> None:
        try:
            node.value.encode()
        except UnicodeEncodeError as error:
            raise SettingsError(
                f"{self._path}, line {node.start_mark.line + 1}: the text holds half a character"
            ) from error


def _with_defaults(content: Any) -> Any:
    modes = content.get("modes") if isinstance(content, dict) else None
    if not isinstance(modes, dict):
        return content
    return content | {"modes": {str(n): _DEFAULTS | m if isinstance(m, dict) else m for n, m in modes.items()}}


def _sentence(error: ValidationError, path: Path, lines: Lines) -> str:
    """Describe the first error, with its line."""
    first = error.errors(include_url=False)[0]
    keys = tuple(str(part) for part in first["loc"])
    where, name = f"{path}{_at(keys, lines)}", ".".join(keys)
    if first["type"] == "extra_forbidden":
        table = LoraSettings if "loras" in keys else ModeSettings if keys[0] == "modes" else _File
        return f"Unknown key {name} in {where}: expected one of {', '.join(sorted(table.model_fields))}"
    if first["type"] == "missing":
        return f"Missing {name} in {where}: give it"
    if not keys:
        return f"Cannot read the modes {path}: expected the keys {', '.join(_File.model_fields)}"
    said = first["msg"].removeprefix("Value error, ")
    value = f", {shown(first['input'])}" if isinstance(first["input"], str | int | float) else ""
    return f"Invalid {name} in {where}{value}: {said[0].lower()}{said[1:]}"


def _at(keys: tuple[str, ...], lines: Lines) -> str:
    """Return the line of a key, or of its nearest parent in the file."""
    above = (keys[:length] for length in range(len(keys), 0, -1))
    line = next((lines[prefix] for prefix in above if prefix in lines), None)
    return "" if line is None else f", line {line}"
