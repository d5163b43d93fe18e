"""The shapes of a checkpoint's tensors by component, from headers alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from imagegen_core.family import Family
from imagegen_core.models.folders import component_kinds, weights
from imagegen_core.models.headers import read_header
from imagegen_core.models.networks.parts import checkpoint_parts, component_layers, sources, vae_layers_of

TensorShapes = Mapping[str, tuple[int, ...]]


def component_shapes(
    path: Path, family: Family, base: Path | None = None, vae: Path | None = None
) -> dict[str, TensorShapes]:
    """Return the shapes of each component's tensors, by the names in its network.

    Args:
        path: A checkpoint's file or diffusers-format folder.
        family: Its family.
        base: A folder for the components that a file lacks; see `Settings.base_model`.
        vae: A separate autoencoder; see `Settings.vae_path`.

    Raises:
        ModelLoadError: A file is missing or damaged.
    """
    if path.is_file():
        found = {} if base is None else _of_folder(base)
        parts = checkpoint_parts(read_header(path), family)
        found |= {name: {layer: source.shape for layer, source in part.items()} for name, part in parts.items()}
    else:
        found = _of_folder(path)
    if vae is not None and vae.exists():
        found["vae"] = _of_component("vae", vae) if vae.is_dir() else _of_vae_file(vae)
    return {name: shapes for name, shapes in found.items() if shapes}


def _of_folder(folder: Path) -> dict[str, TensorShapes]:
    return {name: _of_component(name, folder / name) for name in component_kinds(folder)}


def _of_component(name: str, folder: Path) -> TensorShapes:
    layers = {key: source for file in weights(folder) for key, source in sources(read_header(file)).items()}
    return {layer: source.shape for layer, source in component_layers(name, layers).items()}


def _of_vae_file(path: Path) -> TensorShapes:
    return {layer: source.shape for layer, source in (vae_layers_of(read_header(path)) or {}).items()}
