"""Configuration from arguments, the environment and ``imagegen.toml``, each value with its source."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from imagegen_core.errors import SettingsError

DEFAULT_FILE = "imagegen.toml"
FILE_VARIABLE = "IMAGEGEN_CONFIG"

# The environment variables of each field, the first that is set wins.
_VARIABLES: dict[str, tuple[str, ...]] = {
    "backend": ("IMAGEGEN_BACKEND", "BACKEND"),
    "use_sdxl": ("IMAGEGEN_USE_SDXL", "USE_SDXL"),
    "model": ("IMAGEGEN_MODEL", "MODEL"),
    "model_root": ("IMAGEGEN_MODEL_ROOT", "MODEL_ROOT"),
    "device": ("IMAGEGEN_DEVICE", "CUDA_DEVICE"),
    "dtype": ("IMAGEGEN_DTYPE", "CUDA_DTYPE"),
    "vae_path": ("IMAGEGEN_VAE_PATH", "VAE_PATH"),
    "base_model": ("IMAGEGEN_BASE_MODEL", "BASE_MODEL"),
    "lora_root": ("IMAGEGEN_LORA_ROOT", "LORA_ROOT"),
    "embeddings_root": ("IMAGEGEN_EMBEDDINGS_ROOT", "EMBEDDINGS_ROOT"),
    "scheduler": ("IMAGEGEN_SCHEDULER", "CUDA_SCHEDULER"),
    "recipe": ("IMAGEGEN_RECIPE",),
    "batching": ("IMAGEGEN_BATCHING",),
    "enable_xformers": ("IMAGEGEN_ENABLE_XFORMERS", "CUDA_ENABLE_XFORMERS"),
    "attention_slicing": ("IMAGEGEN_ATTENTION_SLICING", "CUDA_ATTENTION_SLICING"),
}
# Fields that a backend may have a variable of its own for, which comes before those above: SDXL_MODEL.
_PER_BACKEND = {"model": "MODEL", "model_root": "MODEL_ROOT"}


class _Value(NamedTuple):
    value: Any
    source: str


class StyleSettings(BaseModel):
    """A style as the configuration describes it; see `imagegen_core.StyleDef`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lora_path: Path
    levels: tuple[float, ...] = (1.0,)
    title: str | None = None
    required_cross_attention_dim: int | None = None


class Settings(BaseModel):
    """How this process draws: built by `Settings.load`, or by hand with the fields as keywords.

    Attributes:
        backend: Name of the backend to draw with; None chooses it from the checkpoint.
        use_sdxl: True chooses a backend for SDXL checkpoints; `backend` comes first.
        model: A checkpoint: a path, a name below `model_root`, or a plugin's named model such as ``demo``.
        model_root: Folder that checkpoint names and relative LoRA paths start from.
        device: ``cuda:0``, ``mps``, ``cpu``; None takes the first of these that is there.
        dtype: ``fp16``, ``bf16`` or ``fp32``; None takes what suits the device.
        vae_path: A VAE of its own, a file or a diffusers-format folder, instead of the checkpoint's.
        base_model: Diffusers-format folder that supplies what a single-file checkpoint lacks: its tokenizers, and
            configs and components where it has none or is of an unusual width.
        lora_root: Folder whose LoRA files are styles, each by its name.
        styles: Styles by id, each a table ``[styles.NAME]`` in the file.
        embeddings_root: Folder of textual-inversion embeddings; prompts name them by their files' names.
        scheduler: The sampler where a request names none; see `imagegen_core.samplers`.
        recipe: Whether pictures carry how they were made; see `imagegen_core.images.recipe`.
        batching: ``exact`` has an engine share forward passes only where that leaves every picture as it is, ``fast``
            regardless.
        enable_xformers: Use xformers' attention kernels.
        attention_slicing: Compute attention in slices: less memory, slower.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    backend: str | None = None
    use_sdxl: bool | None = None
    model: str | None = None
    model_root: Path | None = None
    device: str | None = None
    dtype: Literal["fp16", "bf16", "fp32"] | None = None
    vae_path: Path | None = None
    base_model: Path | None = None
    lora_root: Path | None = None
    styles: Mapping[str, StyleSettings] = Field(default_factory=dict)
    embeddings_root: Path | None = None
    scheduler: str = "LCM"
    recipe: bool = True
    batching: Literal["exact", "fast"] = "exact"
    enable_xformers: bool = False
    attention_slicing: bool = False

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)
    _environ: Mapping[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def load(cls, *, environ: Mapping[str, str] | None = None, **given: Any) -> Settings:
        """Gather the settings; arguments outrank the environment, which outranks the file.

        The file is ``$IMAGEGEN_CONFIG``; else ``imagegen.toml`` in the working directory, and beneath it the one in the
        user's ``~/.config/imagegen``, where they are.

        Args:
            environ: The environment; None means this process's.
            given: Fields set by hand; None leaves a field to the other sources.

        Raises:
            SettingsError: A value is malformed, a key unknown, or the file unreadable.
        """
        environ = os.environ if environ is None else environ
        return cls._of(_from_files(environ) | _from_environment(environ), environ).override(**given)

    def override(self, **given: Any) -> Settings:
        """These settings with fields set by hand; None leaves a field as it is.

        Raises:
            SettingsError: A value is malformed.
        """
        arguments = {field: _Value(value, field) for field, value in given.items() if value is not None}
        return self._of(self._found() | arguments, self._environ)

    def for_backend(self, environment_prefix: str) -> Settings:
        """These settings with a backend's own variables, such as ``SDXL_MODEL`` for ``SDXL``, put first.

        What was given as an argument stays, and settings built by hand have no variables to look at.
        """
        own = {}
        for field, name in _PER_BACKEND.items():
            variable = f"{environment_prefix}_{name}"
            if self._environ.get(variable) and self.source(field) != field:
                own[field] = _Value(self._environ[variable], variable)
        return self._of(self._found() | own, self._environ)

    def source(self, field: str) -> str:
        """Where it came from: ``SDXL_MODEL``, ``dtype in imagegen.toml, line 1``, ``dtype`` by hand, ``default``."""
        return self._sources.get(field, field if field in self.model_fields_set else "default")

    def _found(self) -> dict[str, _Value]:
        return {field: _Value(getattr(self, field), self.source(field)) for field in self.model_fields_set}

    @classmethod
    def _of(cls, found: Mapping[str, _Value], environ: Mapping[str, str]) -> Settings:
        try:
            settings = cls(**{field: value for field, (value, _) in found.items()})
        except ValidationError as error:
            raise SettingsError(_sentence(error, found)) from error
        settings._sources.update((field, source) for field, (_, source) in found.items())
        settings._environ = environ
        return settings


def _from_environment(environ: Mapping[str, str]) -> dict[str, _Value]:
    found = {}
    for field, variables in _VARIABLES.items():
        # An empty variable counts as unset, as shells and compose files leave them.
        if variable := next((name for name in variables if environ.get(name)), None):
            found[field] = _Value(environ[variable], variable)
    return found


def _from_files(environ: Mapping[str, str]) -> dict[str, _Value]:
    """The file that is named, else the working directory's over the user's."""
    if named := environ.get(FILE_VARIABLE):
        return _from_file(Path(named))
    files = (_user_folder(environ) / DEFAULT_FILE, Path(DEFAULT_FILE))
    return {field: value for file in files if file.is_file() for field, value in _from_file(file).items()}


def _user_folder(environ: Mapping[str, str]) -> Path:
    """Where the user's own configuration lies: https://specifications.freedesktop.org/basedir-spec, on every system."""
    return Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "~")).expanduser() / ".config", "imagegen")


def _from_file(path: Path) -> dict[str, _Value]:
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except OSError as error:
        raise SettingsError(
            f"Cannot read the configuration {path} ({error.strerror}): correct {FILE_VARIABLE} or unset it"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"Cannot read the configuration {path}: {error}") from error
    return {key: _Value(value, f"{key} in {path}{_line(key, text)}") for key, value in table.items()}


def _line(key: str, text: str) -> str:
    """Where a file's top-level key stands, in words; nothing where it is written in a way that is hard to find."""
    stands = re.compile(rf"""\s*\[*\s*["']?{re.escape(key)}["']?\s*[=.\]]""")
    lines = (number for number, line in enumerate(text.splitlines(), start=1) if stands.match(line))
    number = next(lines, None)
    return "" if number is None else f", line {number}"


def _sentence(error: ValidationError, found: Mapping[str, _Value]) -> str:
    """The first thing that is wrong, said with the name under which the value was given."""
    first = error.errors(include_url=False)[0]
    field = str(first["loc"][0])
    source = found[field].source
    if first["type"] == "extra_forbidden":
        return f"Unknown setting {source}: expected one of {', '.join(sorted(Settings.model_fields))}"
    inner = "".join(f".{part}" for part in first["loc"][1:])
    name = f"{source}, {field}{inner}:" if inner else source
    return f"Invalid {name} {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"
