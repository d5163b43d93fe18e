"""The sources of settings: the environment and ``imagegen.toml``, each value with its source."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from imagegen_core.errors import SettingsError
from imagegen_core.settings.config_file import read_config

DEFAULT_FILE = "imagegen.toml"
FILE_VARIABLE = "IMAGEGEN_CONFIG"

# Each field's other name in the environment. The name of IMAGEGEN_ and the field has precedence.
_ALSO_CALLED = {
    "backend": "BACKEND",
    "use_sdxl": "USE_SDXL",
    "model": "MODEL",
    "model_root": "MODEL_ROOT",
    "device": "CUDA_DEVICE",
    "dtype": "CUDA_DTYPE",
    "vae_path": "VAE_PATH",
    "base_model": "BASE_MODEL",
    "lora_root": "LORA_ROOT",
    "embeddings_root": "EMBEDDINGS_ROOT",
    "scheduler": "CUDA_SCHEDULER",
    "enable_xformers": "CUDA_ENABLE_XFORMERS",
    "attention_slicing": "CUDA_ATTENTION_SLICING",
    "modes_file": "MODE_CONFIG_PATH",
    "num_workers": "NUM_WORKERS",
    "queue_max": "QUEUE_MAX",
    "port": "PORT",
    "default_timeout": "DEFAULT_TIMEOUT",
    "default_size": "DEFAULT_SIZE",
    "default_steps": "DEFAULT_STEPS",
    "default_guidance": "DEFAULT_GUIDANCE",
    "storage_provider": "STORAGE_PROVIDER",
    "storage_url": "STORAGE_URL",
    "storage_max_items": "STORAGE_MAX_ITEMS",
    "storage_max_bytes": "STORAGE_MAX_BYTES",
    "storage_ttl_image": "STORAGE_TTL_IMAGE",
    "storage_enable_http": "STORAGE_ENABLE_HTTP",
}
_MAX_KEYS = 1000  # at the top level of a file
_FILE_ONLY = {"styles", "modes", "tables"}
# Fields with a variable per backend, such as MINE_MODEL. It has precedence over the names above.
PER_BACKEND = {"model": "MODEL", "model_root": "MODEL_ROOT"}
_PLACES = {FILE_VARIABLE, "XDG_CONFIG_HOME", "HOME"}  # variables for the places of the files


class ProcessEnvironment(dict[str, str]):
    """The whole environment of a process; it stays there: its pickled form is empty, and it equals every other."""

    __hash__ = None

    def __reduce__(self) -> tuple[type[ProcessEnvironment], tuple[()]]:
        return ProcessEnvironment, ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProcessEnvironment)

    def __ne__(self, other: object) -> bool:
        return not self == other


class Value(NamedTuple):
    """A value from a source.

    Attributes:
        value: The value as written in the source.
        source: The source in words: the variable, the key and its file and line, or the argument's field.
        file: The file, if it comes from one.
        text: The text of the file.
    """

    value: Any
    source: str
    file: Path | None = None
    text: str = ""


def variables(field: str, prefixes: Iterable[str] = ()) -> list[str]:
    """List the environment variables of a field; the first that is set counts.

    Args:
        field: The field's name.
        prefixes: Prefixes of backends, such as ``MINE``. Their own variables come before the general ones.
    """
    if field in _FILE_ONLY:
        return []
    own = [f"{prefix}_{PER_BACKEND[field]}" for prefix in prefixes if field in PER_BACKEND]
    also = [_ALSO_CALLED[field]] if field in _ALSO_CALLED else []
    return [*own, f"IMAGEGEN_{field.upper()}", *also]


def from_environment(environ: Mapping[str, str], fields: Iterable[str]) -> dict[str, Value]:
    """Read the fields set by the environment."""
    values = {}
    for field in fields:
        # An empty variable counts as unset, since shells and compose files leave them empty.
        if variable := next((name for name in variables(field) if environ.get(name)), None):
            values[field] = Value(environ[variable], variable)
    return values


def from_backends_own(environ: Mapping[str, str], prefix: str) -> dict[str, Value]:
    """Read the fields set by a backend's own variables."""
    own = {field: f"{prefix}_{name}" for field, name in PER_BACKEND.items()}
    return {field: Value(environ[name], name) for field, name in own.items() if environ.get(name)}


def ours(environ: Mapping[str, str], fields: Iterable[str]) -> dict[str, str]:
    """Select the environment variables for settings. Other processes get these, and no foreign secrets."""
    names = {name for field in fields for name in variables(field)} | _PLACES
    own = tuple(f"_{name}" for name in PER_BACKEND.values())
    return {name: value for name, value in environ.items() if name in names or name.endswith(own)}


def find_files(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the named file; else the user's, then the working directory's, which overrides it."""
    if named := environ.get(FILE_VARIABLE):
        return (Path(named),)
    return tuple(
        folder / DEFAULT_FILE for folder in (*_user_folder(environ), Path()) if _is_file(folder / DEFAULT_FILE)
    )


def _user_folder(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Locate the user's configuration folder: https://specifications.freedesktop.org/basedir-spec, on every system.

    A container's user may have no home folder, and then has no configuration.
    """
    if configured := environ.get("XDG_CONFIG_HOME"):
        return (Path(configured, "imagegen"),)
    try:
        return (Path(environ.get("HOME") or "~").expanduser() / ".config" / "imagegen",)
    except RuntimeError:
        return ()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:  # a home folder of another user
        return False


def from_file(path: Path) -> dict[str, Value]:
    """Read a file's values by their keys.

    Raises:
        SettingsError: It cannot be read.
    """
    try:
        text = read_config(path)
        table = tomllib.loads(text)
    except OSError as error:
        is_there = isinstance(error, PermissionError)
        mend = "correct its permissions" if is_there else f"correct {FILE_VARIABLE} or unset it"
        raise SettingsError(f"Cannot read the configuration {path} ({error.strerror}): {mend}") from error
    except ValueError as error:  # from TOML, or from a number with thousands of digits
        raise SettingsError(f"Cannot read the configuration {path}: {error}; correct its TOML") from error
    except RecursionError as error:
        raise SettingsError(f"Cannot read the configuration {path}: it is nested too deep; correct its TOML") from error
    if len(table) > _MAX_KEYS:
        raise SettingsError(f"Cannot read the configuration {path}: it has {len(table)} keys, more than there are")
    return {key: Value(value, f"{key} in {path}{line([key], text)}", path, text) for key, value in table.items()}


def line(keys: Sequence[str], text: str) -> str:
    """Say in words on which line a nested key stands; return an empty text if the search fails."""
    names = [rf"""["']?{re.escape(key)}["']?""" for key in keys]
    lines, row = text.splitlines(), 0
    for depth, name in enumerate(names, start=1):
        table = r"\s*\.\s*".join(names[:depth])
        stands = re.compile(rf"(\s*\[+\s*{table}\s*[.\]]|\s*{name}\s*[=.])")
        row = next((number for number in range(max(row, 1), len(lines) + 1) if stands.match(lines[number - 1])), 0)
        if not row:
            return ""
    return f", line {row}"
