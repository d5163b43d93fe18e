"""How a configured name becomes a path."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from imagegen_core.errors import ModelNotFoundError
from imagegen_core.models.named import NamedModel
from imagegen_core.paths import expanded

logger = logging.getLogger(__name__)

_LISTED = (".safetensors", ".ckpt")


def locate(name: str, root: Path | None, models: Mapping[str, NamedModel]) -> Path:
    """Find a checkpoint: below `root`, else a plugin's named model, else a path.

    Args:
        name: What the configuration says.
        root: The model root, or None.
        models: The plugins' named models.

    Raises:
        ModelNotFoundError: It is none of the three; the message says where it was looked for.
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


def checkpoints_below(root: Path) -> list[Path]:
    """The diffusers-format folders and the weights files below `root`, sorted; not the files that make up a folder.

    Raises:
        ModelNotFoundError: `root` is not a folder.
    """
    if not root.is_dir():
        raise ModelNotFoundError(f"The model root {root} is not a folder: correct MODEL_ROOT")
    found = []
    for folder, below, files in folders_below(root):
        if "model_index.json" in files:
            found.append(folder)
            below.clear()  # its components
        else:
            found += [folder / name for name in files if name.lower().endswith(_LISTED)]
    return sorted(found)


def folders_below(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk the folders below `root`, linked ones too, each once.

    Yields:
        A folder, the names of the folders in it, which a caller may clear, and the names of its files.
    """
    seen = set()
    for folder, below, files in os.walk(root, onerror=_warn, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link back up, or to a folder that has been walked
            below.clear()
            continue
        seen.add(real)
        yield Path(folder), below, files


def _warn(error: OSError) -> None:
    logger.warning("The folder %s is skipped: %s", error.filename, error.strerror)
