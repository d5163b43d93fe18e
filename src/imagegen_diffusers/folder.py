"""Describe a diffusers-format folder of any pipeline by its small JSON files, without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagegen_core import Description, ModelLoadError

_INDEX = "model_index.json"
_WEIGHTS = (".safetensors", ".bin")
_DENOISERS = ("transformer", "unet")
_DECODERS = ("vae", "movq")


def describe(path: Path) -> Description | None:
    """Describe a folder; return None if it is no diffusers-format folder.

    Raises:
        ModelLoadError: A JSON file is damaged, or the folder asks for code of its own.
    """
    if not (path / _INDEX).is_file():
        return None
    index = _read(path / _INDEX)
    pipeline = index.get("_class_name")
    if pipeline is None:
        raise ModelLoadError(f"{path / _INDEX} names no pipeline: copy the checkpoint again, with all its folders")
    if not isinstance(pipeline, str):
        raise ModelLoadError(
            f"{path / _INDEX} asks for a pipeline of its own code, which could do anything: it is not run"
        )
    named = [name for name, kind in index.items() if isinstance(kind, list) and kind and kind[0] is not None]
    files = [file for name in named for file in (path / name).glob("*") if file.suffix in _WEIGHTS]
    return Description(
        kind="checkpoint",
        layout="diffusers",
        components=tuple(name for name in named if (path / name).is_dir()),
        missing=tuple(name for name in named if not (path / name).is_dir()),
        path=path,
        format="diffusers-pipeline",
        size=sum(file.stat().st_size for file in files),
        native_size=native_size(path),
    )


def native_size(path: Path) -> str | None:
    """Return a folder's training resolution as ``WIDTHxHEIGHT``; None if its configs do not say.

    Raises:
        ModelLoadError: A config is damaged.
    """
    samples = _config(path, _DENOISERS).get("sample_size")
    decoder = _config(path, _DECODERS)
    channels = decoder.get("encoder_block_out_channels", decoder.get("block_out_channels"))
    if not isinstance(samples, int) or not isinstance(channels, list) or not channels:
        return None
    side = samples * 2 ** (len(channels) - 1)
    return f"{side}x{side}"


def stores_bf16(path: Path) -> bool:
    """Return whether the denoising network's weights are stored in bf16."""
    files = (file for name in _DENOISERS for file in sorted((path / name).glob("*.safetensors")))
    first = next(files, None)
    if first is None:
        return False
    with first.open("rb") as opened:  # https://huggingface.co/docs/safetensors: the header's length, then the header
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    return any(tensor.get("dtype") == "BF16" for tensor in header.values())


def _config(path: Path, names: tuple[str, ...]) -> Mapping[str, Any]:
    return next((_read(file) for name in names if (file := path / name / "config.json").is_file()), {})


def _read(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(f"Cannot read {file} ({error}): copy the checkpoint again") from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{file} is not a JSON object: copy the checkpoint again")
    return content
