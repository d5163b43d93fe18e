"""Upscaling networks of the many architectures in spandrel, which it detects from their weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imagegen_core.diffusion.esrgan import DEEP_OVERLAP
from imagegen_core.diffusion.torchvision import make_torchvision_importable
from imagegen_core.diffusion.upscaler_network import Network
from imagegen_core.diffusion.upscaler_weights import Weights
from imagegen_core.errors import ModelLoadError, PluginError
from imagegen_core.importing import explain
from imagegen_core.parts import Parts

# Reasons why a network known to spandrel cannot enlarge pictures here.
_REFUSED_PURPOSES = {
    "Inpainting": "it fills masked parts and enlarges nothing",
    "FaceSR": "it restores cut-out faces of one size, and no whole pictures",
}
_REFUSED_ARCHITECTURES = {"AuraSR": "it adds noise of its own, so that no picture can be drawn twice"}
# Prefixes of tensor names: networks compute these tensors themselves, or a profiler left these counters.
_HARMLESS = (
    "attn_mask",
    "relative_position_index",
    "relative_coords_table",
    *("table_w", "table_s", "index_w", "index_s", "mask_w", "mask_s"),  # GRL's
    "total_ops",
    "total_params",
)


def spandrel_network(weights: Weights, device: torch.device, path: Path, unfit: str) -> Network:
    """Detect the architecture of weights with spandrel, and build the network.

    Args:
        weights: The weights by name.
        device: The network's device.
        path: The weights' file, for messages.
        unfit: The reason why imagegen's own networks do not fit, for messages.

    Raises:
        PluginError: spandrel does not import.
        ModelLoadError: spandrel knows no such network, the network does not enlarge pictures, or the weights do not
            fit.
    """
    try:
        make_torchvision_importable()
        from spandrel import MAIN_REGISTRY
    except Exception as error:
        failure = explain(error, "spandrel", extra="upscale")
        raise PluginError(
            f"Cannot run {path}: {unfit}, and other networks need spandrel, but {failure.cause}; {failure.mend}"
        ) from error
    architectures = (entry.architecture for entry in MAIN_REGISTRY.architectures("detection"))
    architecture = next((known for known in architectures if known.detect(weights)), None)
    if architecture is None:
        raise ModelLoadError(
            f"Cannot run {path}: its tensors, such as {next(iter(weights))!r}, are of no architecture that spandrel "
            "knows; give another upscaler"
        )
    if refusal := _REFUSED_ARCHITECTURES.get(architecture.id):
        raise _refused(path, architecture.name, refusal)
    try:
        model: Any = architecture.load(dict(weights)).to(device)
    except Exception as error:  # each architecture fails in its own way on unexpected weights
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
    return Network(partial(_whole, model), model.input_channels, DEEP_OVERLAP)


def _whole(model: Any, image: Tensor) -> Parts[Tensor]:
    """Run a network, which has no parts known here."""
    yield
    return model(image)  # type: ignore[no-any-return]


def _refused(path: Path, architecture: str, why: str) -> ModelLoadError:
    return ModelLoadError(f"Cannot use the upscaler {path}, of architecture {architecture}: {why}; give another one")


def _unused(weights: Weights, loaded: Weights) -> str | None:
    """Return the name of the first tensor that the network does not use, except harmless tensors.

    A tensor may have another name in the network.
    """
    renamed = [loaded[name] for name in loaded.keys() - weights.keys()]
    for name, tensor in weights.items():
        if name in loaded or name.rpartition(".")[2].startswith(_HARMLESS):
            continue
        if not any(held.shape == tensor.shape and torch.equal(held, tensor) for held in renamed):
            return name
    return None
