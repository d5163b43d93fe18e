"""What a checkpoint is, told from its small JSON files alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from imagegen_core.errors import ModelLoadError

# Cross-attention widths of the released models; a tiny or custom one is told by its other marks.
_WIDTHS = {768: "sd15", 1024: "sd2", 1280: "sdxl-refiner", 2048: "sdxl"}
_CLASSES = {"StableDiffusionPipeline": "sd15", "StableDiffusionXLPipeline": "sdxl"}


def architecture(path: Path) -> str:
    """The family of a diffusers-format folder: ``sd15``, ``sd2``, ``sdxl``, ``sdxl-refiner``.

    SDXL is told by its text-time embeddings at any cross-attention width.

    Raises:
        ModelLoadError: `path` is not such a folder, or not one of a family known here.
    """
    index, unet = _json(path, "model_index.json"), _json(path, "unet/config.json")
    family = _WIDTHS.get(unet.get("cross_attention_dim", 0))
    if unet.get("addition_embed_type") == "text_time":
        return "sdxl-refiner" if family == "sdxl-refiner" else "sdxl"
    if family in ("sd15", "sd2"):
        return family
    if found := _CLASSES.get(index.get("_class_name", "")):
        return found
    raise ModelLoadError(
        f"Cannot tell what {path} is: its model_index.json says {index.get('_class_name')!r}, and its UNet's "
        f"cross-attention width is {unet.get('cross_attention_dim')!r}; expected Stable Diffusion 1.x, 2.x or XL"
    )


def native_size(path: Path, default: str) -> str:
    """The size a folder's checkpoint was trained at, as ``WIDTHxHEIGHT``; `default` where it does not say."""
    samples = _json(path, "unet/config.json").get("sample_size")
    channels = _json(path, "vae/config.json").get("block_out_channels")
    if not isinstance(samples, int) or not isinstance(channels, list) or not channels:
        return default
    side = samples * 2 ** (len(channels) - 1)
    return f"{side}x{side}"


def _json(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelLoadError(_missing(folder, name)) from error
    except NotADirectoryError as error:
        raise ModelLoadError(
            f"{folder} is a single file, and only diffusers-format folders are loaded so far: convert it with "
            "diffusers' from_single_file and save_pretrained"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"Cannot read {folder / name}: {error}; copy the checkpoint anew") from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{folder / name} holds no JSON object: copy the checkpoint anew")
    return content


def _missing(folder: Path, name: str) -> str:
    if name == "model_index.json":
        return f"{folder} is no checkpoint: a diffusers-format folder has a model_index.json, and this one has none"
    return f"The checkpoint {folder} is incomplete: {name} is missing; copy it anew, with all its folders"
