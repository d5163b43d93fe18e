"""Upscaling networks of the many architectures that spandrel recognises by their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from imagegen_core.diffusion.esrgan import DEEP_OVERLAP
from imagegen_core.diffusion.torchvision import make_torchvision_importable
from imagegen_core.diffusion.upscaler_network import Network
from imagegen_core.diffusion.upscaler_weights import Weights
from imagegen_core.errors import ModelLoadError, PluginError
from imagegen_core.importing import explain

# Why a network that spandrel knows enlarges no picture here.
_REFUSED_PURPOSES = {
    "Inpainting": "it fills masked parts and enlarges nothing",
    "FaceSR": "it restores cut-out faces of one size, and no whole pictures",
}
_REFUSED_ARCHITECTURES = {"AuraSR": "it adds noise of its own, so that no picture can be drawn twice"}
# Of tensors that networks compute anew, and of counters that a profiler leaves behind.
_HARMLESS = (
    "attn_mask",
    "relative_position_index",
    "relative_coords_table",
    *("table_w", "table_s", "index_w", "index_s", "mask_w", "mask_s"),  # GRL's
    "total_ops",
    "total_params",
)


def spandrel_network(weights: Weights, device: torch.device, path: Path, unfit: str) -> Network:
    """The network that spandrel recognises.

    Args:
        weights: Its weights by name.
        device: Where it computes.
        path: Their file, for messages.
        unfit: Why it is no network of imagegen's own, for messages.

    Raises:
        PluginError: spandrel does not import.
        ModelLoadError: It knows no such network, or one that enlarges no pictures, or not with these weights.
    """
    try:
        make_torchvision_importable()
        from spandrel import MAIN_REGISTRY
    except Exception as error:
        failure = explain(error, "spandrel", extra="upscale")
        raise PluginError(
            f"Cannot run {path}: {unfit}, and other networks need spandrel, but {failure.cause}; {failure.mend}"
        ) from error
    architectures = (found.architecture for found in MAIN_REGISTRY.architectures("detection"))
    architecture = next((found for found in architectures if found.detect(weights)), None)
    if architecture is None:
        raise ModelLoadError(
            f"Cannot run {path}: its tensors, such as {next(iter(weights))!r}, are of no architecture that spandrel "
            "knows; give another upscaler"
        )
    if refusal := _REFUSED_ARCHITECTURES.get(architecture.id):
        raise _refused(path, architecture.name, refusal)
    try:
        model: Any = architecture.load(dict(weights)).to(device)
    except Exception as error:  # each architecture fails in its own way on weights that it does not expect
        cause = " ".join(str(error).split()) or type(error).__name__
        raise ModelLoadError(
            f"Cannot run {path}: spandrel takes it for {architecture.name}, and its weights do not fit that "
            f"({cause[:300]}); give another upscaler"
        ) from error
    if refusal := _REFUSED_PURPOSES.get(model.purpose):
        raise _refused(path, architecture.name, refusal)
    if unused := _unused(weights, model.model.state_dict()):
        raise _refused(path, architecture.name, f"it has no use for the file's {unused!r}")
    if model.input_channels != model.output_channels:
        raise _refused(
            path, architecture.name, f"it turns {model.input_channels} channels into {model.output_channels}"
        )
    return Network(model, model.input_channels, DEEP_OVERLAP)


def _refused(path: Path, architecture: str, why: str) -> ModelLoadError:
    return ModelLoadError(f"Cannot use the upscaler {path}, of architecture {architecture}: {why}; give another one")


def _unused(weights: Weights, loaded: Weights) -> str | None:
    """The first of the file's tensors that the network holds under no name, if any, and that is not harmless."""
    renamed = [loaded[name] for name in loaded.keys() - weights.keys()]
    for name, tensor in weights.items():
        if name in loaded or name.rpartition(".")[2].startswith(_HARMLESS):
            continue
        if not any(held.shape == tensor.shape and torch.equal(held, tensor) for held in renamed):
            return name
    return None
