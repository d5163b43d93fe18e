"""Textual-inversion files: diffusers', A1111's and kohya's layouts, and SDXL's with a part for each text encoder."""

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
_LISTED = 3  # keys that an error names


def embedding_files(folder: Path) -> list[Path]:
    """The files with an embedding's suffix in a folder and its sub-folders, linked ones too: the least deep first."""
    files = (place / name for place, _, names in folders_below(folder) for name in names)
    found = (path for path in files if path.suffix.lower() in _SUFFIXES)
    return sorted(found, key=lambda path: (len(path.parts), path))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read an embedding's tensors by their keys, those of nested dicts by the keys joined with dots.

    Raises:
        ModelLoadError: The file is damaged, or its pickle asks for more than weights need.
        ValueError: It is no embedding; the message is a sentence's end.
    """
    with WeightsFile(path) as file:
        tensors = file.header.tensors
        found = contents(tensors)
        if found is not None and found.kind != "embedding":
            raise ValueError(f"it is of the kind {found.kind}")
        part_keys(tensors)
        read = {name: file.read(name) for name in tensors}
        file.check_unchanged()
        return read


def part_keys(keys: Iterable[str]) -> dict[str, str]:
    """The key of each part of an embedding: of ``clip_l`` and ``clip_g``, or of "" where it has one alone.

    Raises:
        ValueError: There is a key that an embedding lacks; the message is a sentence's end.
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
