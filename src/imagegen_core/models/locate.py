"""Resolve a configured name to a path."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from imagegen_core.errors import ModelNotFoundError
from imagegen_core.format import Format
from imagegen_core.models.folders import INDEX
from imagegen_core.models.named import NamedModel
from imagegen_core.paths import expanded

logger = logging.getLogger(__name__)

_LISTED = (".safetensors", ".gguf", ".ckpt")


def locate(name: str, root: Path | None, models: Mapping[str, NamedModel]) -> Path:
    """Find a checkpoint: below `root`, else a plugin's named model, else a path.

    Args:
        name: The configured name.
        root: The model root, or None.
        models: The plugins' named models.

    Raises:
        ModelNotFoundError: None of the three exists. The message lists the places that were searched.
    """
    if root is not None and (root / name).exists():
        return root / name
    if name in models:
        return models[name].path
    path = expanded(name)
    if path.exists():
        return path
    below = f"below {root}" if root else "below a model root (MODEL_ROOT is not set)"
    named = ", ".join(sorted(models)) or "none"
    raise ModelNotFoundError(
        f"No checkpoint '{name}': it is not {below}, not a path, and not a plugin's named model ({named})"
    )


def checkpoints_below(root: Path, formats: Iterable[Format] = ()) -> list[Path]:
    """List the models below `root`, sorted: folders without the files in them, and weights files.

    Args:
        root: The folder to search.
        formats: The formats of models, in addition to diffusers-format folders and weights files.

    Raises:
        ModelNotFoundError: `root` is not a folder.
    """
    if not root.is_dir():
        raise ModelNotFoundError(f"The model root {root} is not a folder: correct MODEL_ROOT")
    formats = list(formats)
    marks = {INDEX, *(mark for form in formats for mark in form.folder_marks)}
    suffixes = (*_LISTED, *(suffix for form in formats for suffix in form.suffixes))
    paths = []
    for folder, below, files in folders_below(root):
        if not marks.isdisjoint(files):
            paths.append(folder)
            below.clear()  # its components
        else:
            paths += [folder / name for name in files if name.lower().endswith(suffixes)]
    return sorted(paths)


def folders_below(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk the folders below `root` and linked folders, each once.

    Yields:
        A folder, the names of its subfolders, and the names of its files. A caller may clear the list of subfolders.
    """
    seen = set()
    for folder, below, files in os.walk(root, onerror=_warn, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a parent, or to a folder visited before
            below.clear()
            continue
        seen.add(real)
        yield Path(folder), below, files


def _warn(error: OSError) -> None:
    logger.warning("The folder %s is skipped: %s", error.filename, error.strerror)
