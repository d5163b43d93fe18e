"""What a diffusers-format folder is, told by its small JSON files and its weights' headers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagegen_core.errors import ModelLoadError
from imagegen_core.models.families import family_of

_CLASSES = {"StableDiffusionPipeline": "sd15", "StableDiffusionXLPipeline": "sdxl"}


def folder_family(folder: Path) -> str:
    """The family of a diffusers-format folder.

    Raises:
        ModelLoadError: It is not such a folder, or not one of a family known here.
    """
    index, unet = read_json(folder, "model_index.json"), read_json(folder, "unet/config.json")
    width, pipeline = unet.get("cross_attention_dim"), index.get("_class_name")
    family = family_of(
        width if isinstance(width, int) else None,
        text_time=unet.get("addition_embed_type") == "text_time",
        otherwise=_CLASSES.get(pipeline) if isinstance(pipeline, str) else None,
    )
    if family is None:
        raise ModelLoadError(
            f"Cannot tell what {folder} is: its model_index.json says {pipeline!r}, and its UNet's "
            f"cross-attention width is {width!r}; expected Stable Diffusion 1.x, 2.x or XL"
        )
    return family


def folder_size(folder: Path) -> str | None:
    """The size a folder's checkpoint was trained at, as ``WIDTHxHEIGHT``; None where it does not say.

    Raises:
        ModelLoadError: A configuration is missing or damaged.
    """
    samples = read_json(folder, "unet/config.json").get("sample_size")
    channels = read_json(folder, "vae/config.json").get("block_out_channels")
    if not isinstance(samples, int) or not isinstance(channels, list) or not channels:
        return None
    side = samples * 2 ** (len(channels) - 1)
    return f"{side}x{side}"


def components(folder: Path) -> tuple[str, ...]:
    """The components that a folder's ``model_index.json`` names, whether they are there or not.

    Raises:
        ModelLoadError: It is not such a folder.
    """
    index = read_json(folder, "model_index.json")
    return tuple(name for name, kind in index.items() if isinstance(kind, list) and kind and kind[0] is not None)


def weights(component: Path) -> list[Path]:
    """The files that a component's weights are loaded from: none where it has none, several where it is sharded.

    A folder may hold its weights several times over: as ``.bin`` too, or as ``.fp16.safetensors`` or the like.
    """
    for suffix in (".safetensors", ".bin"):
        files = sorted(component.glob(f"*{suffix}"))
        if plain := [file for file in files if file.name.count(".") == 1]:
            return plain
        if files:
            return [file for file in files if _variant(file) == _variant(files[0])]
    return []


def read_json(folder: Path, name: str) -> Mapping[str, Any]:
    """The JSON object in a folder's file.

    Raises:
        ModelLoadError: The file is missing or damaged.
    """
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelLoadError(_missing(folder, name)) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(f"Cannot read {folder / name}: {error}; copy the checkpoint anew") from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{folder / name} holds no JSON object: copy the checkpoint anew")
    return content


def _variant(file: Path) -> str:
    return file.name.split(".")[1]


def _missing(folder: Path, name: str) -> str:
    if name == "model_index.json":
        return f"{folder} is no checkpoint: a diffusers-format folder has a model_index.json, and this one has none"
    return f"The checkpoint {folder} is incomplete: {name} is missing; copy it anew, with all its folders"
