"""Describe a model by its header or its small JSON files alone: in milliseconds, and without torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

from imagegen_core.description import FOLDER, Contents, Description
from imagegen_core.errors import ModelLoadError
from imagegen_core.family import Family
from imagegen_core.format import Format
from imagegen_core.importing import import_named
from imagegen_core.models import hints
from imagegen_core.models.contents import contents
from imagegen_core.models.folders import INDEX, components, folder_family, folder_size, has_file, read_json, weights
from imagegen_core.models.headers import read_header
from imagegen_core.models.networks.harmless import is_harmless
from imagegen_core.models.tensors import Header, quoted

# https://github.com/Stability-AI/ModelSpec
_RESOLUTION = re.compile(r"[1-9]\d{0,4}x[1-9]\d{0,4}")
# Kinds of files that cannot draw alone.
_ADDITIONS = {
    "vae": "a VAE",
    "tiny-vae": "a tiny VAE",
    "text-encoder": "a text encoder",
    "lora": "a LoRA",
    "embedding": "an embedding",
    "upscaler": "an upscaler",
}


class KnownModels(Protocol):
    """The declared families and formats: a `Registry` has both."""

    @property
    def families(self) -> Mapping[str, Family]:
        """The families by name."""

    @property
    def formats(self) -> Mapping[str, Format]:
        """The formats by name."""

    def how_to_get(self, package: str | None) -> str:
        """Say how to get the plugin of a distribution: the end of a sentence."""


class Recognized(NamedTuple):
    """What a backend must support to draw with a checkpoint.

    Attributes:
        format: The checkpoint's format; see `Description.format`.
        family: The name of its family; None if its format does not tell.
    """

    format: str
    family: str | None


def recognize(path: Path, known: KnownModels | None = None) -> Recognized:
    """Recognize a checkpoint, or a denoising network alone.

    Args:
        path: A weights file, a diffusers-format folder, or a path in the format of a plugin.
        known: The declared families and formats; None means those of the installed plugins.

    Raises:
        ModelLoadError: `path` is damaged, no checkpoint, or of an undeclared family.
    """
    known = known or _installed()
    description = _in_format(path, known, is_fallback=False)
    if description is None and (family := _folder_family(path, known)):
        return Recognized(FOLDER, family.name)
    description = description or describe(path, known)
    if description.kind in _ADDITIONS:
        raise ModelLoadError(
            f"{path} is not a checkpoint but {_ADDITIONS[description.kind]}: name a checkpoint to draw with"
        )
    return Recognized(description.format, description.family)


def architecture(path: Path, known: KnownModels | None = None) -> str:
    """Return the name of a checkpoint's family; see `recognize`.

    Raises:
        ModelLoadError: `path` is damaged, no checkpoint, or of an undeclared or unknown family.
    """
    recognized = recognize(path, known)
    if recognized.family is None:
        raise ModelLoadError(f"Cannot tell the family of {path}: its format, {recognized.format}, does not say it")
    return recognized.family


def native_size(path: Path, default: str, known: KnownModels | None = None) -> str:
    """Return the training resolution of a checkpoint as ``WIDTHxHEIGHT``; `default` if it does not say.

    Raises:
        ModelLoadError: `path` is damaged, or does not exist.
    """
    known = known or _installed()
    description = _in_format(path, known, is_fallback=False)
    if description is None and (family := _folder_family(path, known)):
        return folder_size(path, family) or default
    return (description or describe(path, known)).native_size or default


def describe(path: Path, known: KnownModels | None = None) -> Description:
    """Describe a weights file, a diffusers-format folder, or a path in the format of a plugin.

    Args:
        path: The file or folder.
        known: The declared families and formats; None means those of the installed plugins.

    Raises:
        ModelLoadError: `path` is damaged, does not exist, or is of an unknown kind or an undeclared family.
    """
    known = known or _installed()
    if description := _in_format(path, known, is_fallback=False):
        return description
    if family := _folder_family(path, known):
        return _describe_folder(path, family)
    try:
        if _is_folder(path):
            raise _undeclared(path, known)
        return _describe_file(path, known)
    except ModelLoadError:
        if not _names_family(path, known) and (description := _in_format(path, known, is_fallback=True)):
            return description
        raise


def needed_parameters(path: Path) -> int:
    """Count the numbers of a checkpoint that its pictures depend on, without moving averages and the like.

    Raises:
        ModelLoadError: `path` is damaged, or does not exist.
    """
    if _is_folder(path):
        return _parameters(map(read_header, _weights_of(path)))
    tensors = read_header(path).tensors
    return sum(tensor.elements for name, tensor in tensors.items() if not is_harmless(name))


def contents_of(header: Header, known: KnownModels | None = None) -> Contents:
    """Identify the tensors of a weights file.

    Raises:
        ModelLoadError: They are unknown, or of an undeclared family.
    """
    known = known or _installed()
    if found := contents(header.tensors, known.families.values()):
        return found
    if any(name.startswith("model_ema.diffusion_model") for name in header.tensors):
        raise ModelLoadError(
            f"{header.path} holds its UNet's moving averages (model_ema) without the weights themselves: take the "
            "version of it that has them under model.diffusion_model"
        )
    title, package = hints.for_tensors(header.tensors) or ("", "")
    if package and package not in _packages(known):
        raise ModelLoadError(
            f"{header.path} is a {title} checkpoint, and no installed plugin draws it: {known.how_to_get(package)}"
        )
    names = ", ".join(quoted(name) for name in islice(header.tensors, 3))
    titles = ", ".join(family.title for family in known.families.values())
    raise ModelLoadError(
        f"Cannot tell what {header.path} is: its tensors, such as {names}, belong to no known model; expected a "
        f"checkpoint{f' ({titles})' if titles else ''}, a LoRA, an embedding, or an upscaler"
    )


def _installed() -> KnownModels:
    """Return the registry of the installed plugins, by name: the plugins' package stands above this one."""
    registry: KnownModels = import_named("imagegen_core.plugins.registry:Registry").discover()
    return registry


def _in_format(path: Path, known: KnownModels, *, is_fallback: bool) -> Description | None:
    """Describe a path in a plugin's format; return None if no such format recognizes it."""
    formats = (form for form in known.formats.values() if form.is_fallback == is_fallback)
    return next((description for form in formats if (description := form.recognize(path))), None)


def _names_family(path: Path, known: KnownModels) -> bool:
    """Return whether a folder names the pipeline of a family; then it is a damaged folder of this family."""
    try:
        pipeline = read_json(path, INDEX).get("_class_name")
    except ModelLoadError:
        return False
    return any(pipeline in family.pipelines for family in known.families.values())


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise ModelLoadError(f"Cannot read {path}: {error.strerror}; correct its permissions") from error


def _folder_family(path: Path, known: KnownModels) -> Family | None:
    """Return the family of a diffusers-format folder without reading its weights; None for any other path."""
    is_of_diffusers = _is_folder(path) and has_file(path, INDEX)
    return folder_family(path, known.families.values()) if is_of_diffusers else None


def _describe_file(path: Path, known: KnownModels) -> Description:
    header = read_header(path)
    return Description(
        **asdict(contents_of(header, known)),
        path=path,
        format=header.format,
        dtypes=_dtypes([header]),
        parameters=_parameters([header]),
        size=path.stat().st_size,
        native_size=_resolution(header),
    )


def _describe_folder(path: Path, family: Family) -> Description:
    named = components(path)
    config = read_json(path, f"{family.denoiser}/config.json")
    files = _weights_of(path)
    headers = [read_header(file) for file in files]
    return Description(
        kind="checkpoint",
        layout="diffusers",
        family=family.name,
        cross_attention_dim=_count(config.get("cross_attention_dim")),
        input_channels=_count(config.get("in_channels")),
        components=tuple(name for name in named if (path / name).is_dir()),
        missing=tuple(name for name in named if not (path / name).is_dir()),
        path=path,
        format=FOLDER,
        dtypes=_dtypes(headers),
        parameters=_parameters(headers),
        size=sum(file.stat().st_size for file in files),
        native_size=None if "vae" in named and not (path / "vae").is_dir() else folder_size(path, family),
    )


def _undeclared(folder: Path, known: KnownModels) -> ModelLoadError:
    pipeline = read_json(folder, INDEX).get("_class_name")
    if not isinstance(pipeline, str):
        return ModelLoadError(
            f"Cannot tell what {folder} is: its {INDEX} names the pipeline {pipeline!r}; name a checkpoint whose "
            "pipeline is one of diffusers'"
        )
    package = hints.for_pipeline(pipeline)
    if package in _packages(known):
        return ModelLoadError(
            f"{folder} is a {pipeline} checkpoint of an architecture that {package} does not know: name another one"
        )
    return ModelLoadError(
        f"{folder} is a {pipeline} checkpoint, and no installed plugin draws it: {known.how_to_get(package)}"
    )


def _packages(known: KnownModels) -> set[str | None]:
    return {family.package for family in known.families.values()} | {
        declared.package for declared in known.formats.values()
    }


def _weights_of(folder: Path) -> list[Path]:
    return [file for name in components(folder) for file in weights(folder / name)]


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
