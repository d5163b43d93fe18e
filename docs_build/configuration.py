"""The page of all settings, made from the model that checks them."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from docstrings import attributes
from pydantic.fields import FieldInfo

from imagegen_core import Settings
from imagegen_core.settings import ByteCount, DeviceNames, MemorySize, variables

_INTRODUCTION = """# Configuration

Each setting is a variable of the environment, a key of `imagegen.toml`, and a keyword of `Settings`.
[Settings](settings.md) is the short list. Arguments come before variables, and variables before the file.
`IMAGEGEN_CONFIG` names the file. Without it, imagegen reads `imagegen.toml` in the working directory, and for other
keys the file of this name in `~/.config/imagegen`. Of several variables the first counts. An empty variable counts as
unset. `imagegen config show` prints each value and its source. A malformed or unknown setting is an error.

Two settings are variables only, because they decide about imports before any file is read. `IMAGEGEN_PLUGINS` lists the
only plugins to import, and `IMAGEGEN_PLUGINS_DISABLED` the plugins to leave out, separated by commas.
"""
# Examples for settings without a default.
_EXAMPLES: Mapping[str, Any] = {
    "backend": "sdxl",
    "backends": ["mine", "sdxl"],
    "use_sdxl": True,
    "model": "my-sdxl.safetensors",
    "model_root": "/models",
    "device": "cuda:0",
    "dtype": "fp16",
    "vae_path": "/models/vae.safetensors",
    "fast_decode": "/models/taesdxl_decoder.safetensors",
    "preview_decode": "/models/taesdxl_decoder.safetensors",
    "base_model": "/models/sdxl-base",
    "lora_root": "/models/loras",
    "embeddings_root": "/models/embeddings",
    "prediction": "v-zsnr",
    "cuda_graphs": False,
    "vae_dtype": "bf16",
    "vae_channels_last": True,
    "vae_tiling": True,
    "memory": "6GB",
    "weight_storage": "int8",
    "modes_file": "/etc/imagegen/modes.yaml",
    "default_mode": "portrait",
    "memory_budget": "6GB",
    "num_workers": 2,
    "queue_per_key": 8,
    "max_replicas": 8,
    "replica_gpus": 1,
    "default_size": "1024x1024",
    "upscaler": "lanczos",
    "picture_hosts": ["pictures.example.org"],
    "model_aliases": ["gpt-image-1", "dall-e-2=portrait"],
    "root_path": "/ai",
    "trusted_proxies": ["127.0.0.1", "10.0.0.0/8"],
    "api_keys": ["a-long-random-word"],
    "admin_keys": ["another-long-random-word"],
    "cors_origins": ["http://localhost:5173"],
    "allowed_hosts": ["pictures.example.org"],
    "storage_url": "/var/lib/pictures",
}
_STYLE = """[styles.papercut]
lora_path = "loras/papercut.safetensors"
levels = [0.5, 0.8, 1.1]
title = "cut from paper"
required_cross_attention_dim = 2048"""
_MODE = """[modes.portrait]
model = "my-sdxl.safetensors"
loras = [{ path = "portrait.safetensors", strength = 0.8, adapter_name = "portrait" }]
description = "People, up close"
scheduler = "DPM++ 2M Karras"
default_size = "896x1152"
default_steps = 30
default_guidance = 7.5"""
_OWN = """[sdxl]
model = 'sdxl-base.safetensors'"""
_TABLES = {"styles": _STYLE, "modes": _MODE, "tables": _OWN}
_PREFIXES = ("SDXL", "SD15")  # of this repository's backends; other backends have their own
_WORDS = {
    ByteCount: "number of bytes, also as `6GB` or `6GiB`",
    MemorySize: "number of bytes, also as `6GB` or `6GiB`, or `auto`",
    DeviceNames: "text, or several words",
    str: "text",
    Path: "path",
    bool: "true or false",
    int: "whole number",
    float: "number",
}
_LIMITS = {"ge": "from", "gt": "above", "le": "to"}


def page() -> str:
    """Return the page as Markdown."""
    described = attributes(Settings.__doc__ or "")
    return "\n".join([_INTRODUCTION, *(_section(name, described[name]) for name in Settings.model_fields)])


def toml_of(name: str) -> str:
    """Return the setting as a line of a file, with its default, or with an example if it has none."""
    if name in _TABLES:
        return _TABLES[name]
    default = Settings.model_fields[name].get_default(call_default_factory=True)
    return f"{name} = {json.dumps(_EXAMPLES[name] if default in (None, (), '') else default)}"


def _section(name: str, description: str) -> str:
    field = Settings.model_fields[name]
    named = ", ".join(f"`{variable}`" for variable in variables(name, _PREFIXES)) or "the file alone"
    facts = f"*Type:* {_type(field)}. *Default:* {_default(field)}. *Set by:* {named}."
    return "\n\n".join([f"## {name}", description, facts, f"```toml\n{toml_of(name)}\n```", ""])


def _type(field: FieldInfo) -> str:
    limits = [(word, getattr(rule, name, None)) for rule in field.metadata for name, word in _LIMITS.items()]
    return " ".join(
        [_type_in_words(field.annotation), *(f"{word} {limit}" for word, limit in limits if limit is not None)]
    )


def _type_in_words(annotation: Any) -> str:
    if get_origin(annotation) in (types.UnionType, typing.Union):
        return " or ".join(_type_in_words(part) for part in get_args(annotation) if part is not types.NoneType)
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) is tuple:
        return "words"
    if get_origin(annotation) is Mapping:
        return "tables"
    return _WORDS[annotation]


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value in (None, (), {}):
        return "none"
    return f"`{', '.join(value) if isinstance(value, tuple) else json.dumps(value).strip(chr(34))}`"
