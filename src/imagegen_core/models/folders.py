"""Read diffusers-format folders: their small JSON files, and the names of their weights files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from imagegen_core.errors import ModelLoadError
from imagegen_core.family import Family

LIBRARIES = ("diffusers", "transformers")
"""The libraries that a folder's components may come from."""

INDEX = "model_index.json"
"""The file that names a folder's pipeline and components."""

# Components for input pictures: drawing from a prompt needs none of them, so none is loaded.
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
_ABSENT = [None, None]  # a component that the pipeline does not have
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<before>\w+))?(?:-(?P<number>\d+)-of-(?P<count>\d+))?"
    r"(?:\.(?P<after>\w+))?\.(?P<suffix>safetensors|bin)"
)


def folder_family(folder: Path, families: Iterable[Family]) -> Family | None:
    """Return the family of a diffusers-format folder; None if no family recognizes it.

    Raises:
        ModelLoadError: The folder is not in this format, or a file is damaged or missing.
    """
    index = read_json(folder, INDEX)
    incomplete = None
    for family in families:
        config = f"{family.denoiser}/config.json"
        if has_file(folder, config):
            if family.fits_folder(index, read_json(folder, config)):
                return family
        elif index.get("_class_name") in family.pipelines:
            incomplete = config
    if incomplete:
        raise ModelLoadError(_missing(folder, incomplete))
    return None


def folder_size(folder: Path, family: Family) -> str | None:
    """Return the training resolution of a folder's checkpoint as ``WIDTHxHEIGHT``; None if it does not say.

    Raises:
        ModelLoadError: A configuration is missing or damaged.
    """
    samples = read_json(folder, f"{family.denoiser}/config.json").get("sample_size")
    vae = read_json(folder, "vae/config.json") if (folder / "vae").is_dir() else {}
    if isinstance(samples, int):
        channels = vae.get("block_out_channels")
        reduction = 2 ** (len(channels) - 1) if isinstance(channels, list) and channels else family.latent_reduction
        return f"{samples * reduction}x{samples * reduction}"
    pixels = vae.get("sample_size")  # of the autoencoder, for networks without a size of their own
    return f"{pixels}x{pixels}" if isinstance(pixels, int) else None


def components(folder: Path) -> tuple[str, ...]:
    """Return the components in ``model_index.json``, present or not.

    Raises:
        ModelLoadError: The folder has no readable ``model_index.json``.
    """
    index = read_json(folder, INDEX)
    return tuple(name for name, kind in index.items() if isinstance(kind, list) and kind and kind[0] is not None)


def component_kinds(folder: Path) -> dict[str, tuple[str, str]]:
    """Return the library and the class of each component for drawing, as ``model_index.json`` names them.

    Raises:
        ModelLoadError: The folder has no readable ``model_index.json``, or it names code of a library that is not
            allowed.
    """
    index = read_json(folder, INDEX)
    place = folder / INDEX
    if not isinstance(index.get("_class_name"), str):
        raise ModelLoadError(f"{place} asks for a pipeline of its own code, which could do anything: it is not run")
    kinds = {}
    for name, kind in index.items():
        if name.startswith("_") or not isinstance(kind, list) or kind == _ABSENT:
            continue
        if len(kind) != 2 or not all(isinstance(part, str) for part in kind):  # noqa: PLR2004 - library and class
            raise ModelLoadError(f"{place} describes its {name} as {kind!r}, expected a library and a class")
        library, class_name = kind
        if name in _UNUSED:
            continue
        if library not in LIBRARIES:
            raise ModelLoadError(
                f"{place} wants its {name} from the library {library!r}, whose code could do anything: classes are "
                f"taken from {' and '.join(LIBRARIES)} alone"
            )
        kinds[name] = (library, class_name)
    return kinds


def weights(component: Path) -> list[Path]:
    """Return the files of a component's weights: several if it is sharded, none if it has none.

    A folder may hold its weights several times: also as ``.bin``, or in a variant such as ``fp16``. Among the complete
    sets, safetensors files come first, then sets without a variant. ``non_ema`` comes last, since its weights differ.

    Raises:
        ModelLoadError: Shards are missing.
    """
    groups: dict[tuple[bool, bool, str, int], list[Path]] = {}
    for file in sorted(component.iterdir()) if component.is_dir() else ():
        if match := _WEIGHTS.fullmatch(file.name):
            variant = match["before"] or match["after"] or ""
            rank = (variant == "non_ema", match["suffix"] == "bin", variant, int(match["count"] or 1))
            groups.setdefault(rank, []).append(file)
    whole = [rank for rank, files in groups.items() if len(files) == rank[-1]]
    if groups and not whole:
        rank, files = next(iter(groups.items()))
        raise ModelLoadError(
            f"The checkpoint {component.parent} is incomplete: {component.name} has {len(files)} of the {rank[-1]} "
            f"parts that {files[0].name} belongs to; copy it again"
        )
    return groups[min(whole)] if whole else []


def has_file(folder: Path, name: str) -> bool:
    """Return whether a folder has a file, also one without permission to read: `read_json` then tells it."""
    try:
        return (folder / name).is_file()
    except OSError:
        return True


def read_json(folder: Path, name: str) -> Mapping[str, Any]:
    """Return the JSON object in a folder's file.

    Raises:
        ModelLoadError: The file is missing or damaged.
    """
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelLoadError(_missing(folder, name)) from error
    except OSError as error:
        raise ModelLoadError(f"Cannot read {folder / name}: {error.strerror}; correct its permissions") from error
    except (ValueError, RecursionError) as error:
        raise ModelLoadError(f"Cannot read {folder / name}: {error}; copy the checkpoint again") from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{folder / name} is not a JSON object: copy the checkpoint again")
    return content


def _missing(folder: Path, name: str) -> str:
    if name == INDEX:
        return f"{folder} is not a checkpoint: a diffusers-format folder has a model_index.json, and this one has none"
    return f"The checkpoint {folder} is incomplete: {name} is missing; copy it again, with all its folders"
