"""Describe a model by its header or its small JSON files alone: in milliseconds, and without torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from imagegen_core.errors import ModelLoadError
from imagegen_core.models.contents import contents
from imagegen_core.models.description import Contents, Description
from imagegen_core.models.folders import components, folder_family, folder_size, read_json, weights
from imagegen_core.models.headers import read_header
from imagegen_core.models.networks.harmless import is_harmless
from imagegen_core.models.tensors import Header, quoted

# https://github.com/Stability-AI/ModelSpec
_RESOLUTION = re.compile(r"[1-9]\d{0,4}x[1-9]\d{0,4}")


def architecture(path: Path) -> str:
    """Return the family of a checkpoint or of a single UNet: ``sd15``, ``sd2``, ``sdxl`` or ``sdxl-refiner``.

    Text-time embeddings identify SDXL at any cross-attention width.

    Raises:
        ModelLoadError: `path` is damaged, no checkpoint, or of an unknown family.
    """
    if _is_folder(path):
        return folder_family(path)
    description = describe(path)
    if description.kind in _ADDITIONS:
        _refuse_averages(read_header(path))
        raise ModelLoadError(
            f"{path} is not a checkpoint but {_ADDITIONS[description.kind]}: name a checkpoint to draw with"
        )
    if description.family is None:
        raise ModelLoadError(
            f"Cannot tell what {path} is: its UNet's cross-attention width is {description.cross_attention_dim}; "
            "expected Stable Diffusion 1.x, 2.x or XL"
        )
    return description.family


def native_size(path: Path, default: str) -> str:
    """Return the training resolution of a checkpoint as ``WIDTHxHEIGHT``; `default` if it does not say.

    Raises:
        ModelLoadError: `path` is damaged, or does not exist.
    """
    size = folder_size(path) if _is_folder(path) else _resolution(read_header(path))
    return size or default


def describe(path: Path) -> Description:
    """Describe a weights file or a diffusers-format folder.

    Raises:
        ModelLoadError: `path` is damaged, does not exist, or is of an unknown kind.
    """
    return _describe_folder(path) if _is_folder(path) else _describe_file(path)


def needed_parameters(path: Path) -> int:
    """Count the numbers of a checkpoint that its pictures depend on, without moving averages and the like.

    Raises:
        ModelLoadError: `path` is damaged, or does not exist.
    """
    if _is_folder(path):
        return _describe_folder(path).parameters
    tensors = read_header(path).tensors
    return sum(tensor.elements for name, tensor in tensors.items() if not is_harmless(name))


# Kinds of files that cannot draw alone.
_ADDITIONS = {
    "vae": "a VAE",
    "text-encoder": "a text encoder",
    "lora": "a LoRA",
    "embedding": "an embedding",
    "upscaler": "an upscaler",
}


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise ModelLoadError(f"Cannot read {path}: {error.strerror}; correct its permissions") from error


def contents_of(header: Header) -> Contents:
    """Identify the tensors of a weights file.

    Raises:
        ModelLoadError: They are unknown.
    """
    known = contents(header.tensors)
    if known is None:
        _refuse_averages(header)
        names = ", ".join(quoted(name) for name in islice(header.tensors, 3))
        raise ModelLoadError(
            f"Cannot tell what {header.path} is: its tensors, such as {names}, belong to no known model; expected "
            "one of the Stable Diffusion 1.x, 2.x or XL families, a LoRA, an embedding, or an upscaler"
        )
    return known


def _describe_file(path: Path) -> Description:
    header = read_header(path)
    return Description(
        **asdict(contents_of(header)),
        path=path,
        format=header.format,
        dtypes=_dtypes([header]),
        parameters=_parameters([header]),
        size=path.stat().st_size,
        native_size=_resolution(header),
    )


def _refuse_averages(header: Header) -> None:
    if any(name.startswith("model_ema.diffusion_model") for name in header.tensors):
        raise ModelLoadError(
            f"{header.path} holds its UNet's moving averages (model_ema) without the weights themselves: take the "
            "version of it that has them under model.diffusion_model"
        )


def _describe_folder(path: Path) -> Description:
    family = folder_family(path)
    named = components(path)
    unet = read_json(path, "unet/config.json")
    files = [file for name in named for file in weights(path / name)]
    headers = [read_header(file) for file in files]
    return Description(
        kind="checkpoint",
        layout="diffusers",
        family=family,
        cross_attention_dim=_count(unet.get("cross_attention_dim")),
        input_channels=_count(unet.get("in_channels")),
        components=tuple(name for name in named if (path / name).is_dir()),
        missing=tuple(name for name in named if not (path / name).is_dir()),
        path=path,
        format="folder",
        dtypes=_dtypes(headers),
        parameters=_parameters(headers),
        size=sum(file.stat().st_size for file in files),
        native_size=None if "vae" in named and not (path / "vae").is_dir() else folder_size(path),
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _dtypes(headers: Iterable[Header]) -> tuple[str, ...]:
    used: Counter[str] = Counter()
    for header in headers:
        for tensor in header.tensors.values():
            used[tensor.dtype] += tensor.elements
    return tuple(dtype for dtype, _ in used.most_common())


def _parameters(headers: Iterable[Header]) -> int:
    return sum(tensor.elements for header in headers for tensor in header.tensors.values())


def _resolution(header: Header) -> str | None:
    stated = header.metadata.get("modelspec.resolution", "")
    return stated if _RESOLUTION.fullmatch(stated) else None
