"""Read textual-inversion files: diffusers', A1111's and kohya's layouts, and those with two parts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from imagegen_core.diffusion.weights_file import WeightsFile
from imagegen_core.models.contents import contents
from imagegen_core.models.locate import folders_below
from imagegen_core.models.tensors import quoted

_SUFFIXES = (".safetensors", ".pt", ".bin")
_PARTS = ("clip_l", "clip_g")
_UNUSED = "string_to_token."  # A1111's ids of the placeholder; its name is the file's
_LISTED = 3  # the number of keys in an error


def embedding_files(folder: Path) -> list[Path]:
    """List the embedding files by suffix in a folder and its subfolders, also linked ones, the least deep first."""
    files = (place / name for place, _, names in folders_below(folder) for name in names)
    paths = (path for path in files if path.suffix.lower() in _SUFFIXES)
    return sorted(paths, key=lambda path: (len(path.parts), path))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read an embedding's tensors by their keys; dots join the keys of nested dicts.

    Raises:
        ModelLoadError: The file is damaged, or its pickle asks for more than weights need.
        ValueError: The file is no embedding; the message is the end of a sentence.
    """
    with WeightsFile(path) as file:
        tensors = file.header.tensors
        content = contents(tensors, ())
        if content is not None and content.kind != "embedding":
            raise ValueError(f"it is of the kind {content.kind}")
        part_keys(tensors)
        read = {name: file.read(name) for name in tensors}
        file.check_unchanged()
        return read


def part_keys(keys: Iterable[str]) -> dict[str, str]:
    """Return the key of each part of an embedding: the parts are ``clip_l`` and ``clip_g``, or a single part "".

    Raises:
        ValueError: An embedding has no such key; the message is the end of a sentence.
    """
    used = [key for key in keys if not key.startswith(_UNUSED)]
    parts = {key: key for key in _PARTS if key in used}
    if not parts:
        known = (key for key in used if key == "emb_params" or key.startswith("string_to_param."))
        parts = {"": next(known, used[0])} if used else {}
    strange = [key for key in used if key not in parts.values()]
    if strange or not parts:
        raise ValueError(
            f"it has {_listed(strange)} beside {_listed([*parts.values()])}, where an embedding is one tensor, or "
            "clip_l and clip_g; save each embedding in a file of its own"
        )
    return parts


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return ", ".join(map(quoted, keys[:_LISTED])) + more if keys else "no tensor"
