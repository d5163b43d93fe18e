"""Read a LoRA file as changes of a pipeline's layers; the whole file is checked before any part is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imagegen_core.diffusion.embeddings import Embedding, Embeddings
from imagegen_core.diffusion.loras.deltas import Decomposed, Delta, Difference, Factored, Hadamard, Kronecker, LowRank
from imagegen_core.diffusion.weights_file import WeightsFile
from imagegen_core.family import Family
from imagegen_core.models.loras.checkpoint_layers import CheckpointLayers
from imagegen_core.models.loras.plan import LayerChange, plan_lora
from imagegen_core.models.loras.refusals import LoraError
from imagegen_core.models.loras.tensor_names import DENOISERS, NETWORKS
from imagegen_core.models.tensors import quoted

LayerKey = tuple[str, str]
"""A network's name in the pipeline and a module's name in the network, without ``text_model.``."""


@dataclass(frozen=True, slots=True)
class LoadedLora:
    """A LoRA in memory.

    Attributes:
        deltas: The changes of each layer.
        embeddings: The LoRA's textual-inversion embeddings.
        memory_bytes: The memory of its deltas, in bytes.
    """

    deltas: Mapping[LayerKey, tuple[Delta, ...]]
    embeddings: Sequence[Embedding]
    memory_bytes: int


def pipeline_layers(pipe: Any) -> dict[LayerKey, Any]:
    """Return the modules of a pipeline's networks."""
    networks = ((name, getattr(pipe, name, None)) for name in NETWORKS)
    return {
        (name, module_name if name in DENOISERS else module_name.removeprefix("text_model.")): module
        for name, network in networks
        if network is not None
        for module_name, module in network.named_modules()
    }


def layer_shapes(pipe: Any, family: Family | None = None) -> CheckpointLayers:
    """Return the shapes of a pipeline's networks, to check LoRAs against; `family` is the checkpoint's."""
    networks = {name: getattr(pipe, name, None) for name in NETWORKS}
    return CheckpointLayers(
        {
            name: {parameter: tuple(tensor.shape) for parameter, tensor in network.named_parameters()}
            for name, network in networks.items()
            if network is not None
        },
        family,
    )


def load_lora(
    path: Path, layers: CheckpointLayers, modules: Mapping[LayerKey, Any], embeddings: Embeddings, device: torch.device
) -> LoadedLora:
    """Read a LoRA file for a pipeline.

    Args:
        path: The file.
        layers: The shapes of the pipeline's layers: see `layer_shapes`.
        modules: The pipeline's modules: see `pipeline_layers`.
        embeddings: The pipeline's embeddings; they convert the file's embeddings.
        device: The device to compute on; an offloaded layer comes there.

    Raises:
        ModelLoadError: The file is damaged, or does not fit the pipeline; the message gives the reason.
    """
    with WeightsFile(path) as file:
        plan = plan_lora(file.header, layers)
        deltas: dict[LayerKey, tuple[Delta, ...]] = {}
        for change in plan.layers:
            key = (change.network, change.module)
            deltas[key] = (*deltas.get(key, ()), _delta(change, file, modules[key], device))
        bundled = [_embedding(word, parts, file, embeddings) for word, parts in plan.embeddings.items()]
        file.check_unchanged()
    held = (tensor for changes in deltas.values() for delta in changes for tensor in delta.tensors())
    return LoadedLora(deltas, bundled, sum(tensor.nbytes for tensor in held))


def _embedding(word: str, parts: Mapping[str, str], file: WeightsFile, embeddings: Embeddings) -> Embedding:
    try:
        return embeddings.embedding(word, {part: file.read(name) for part, name in parts.items()})
    except ValueError as error:
        raise LoraError(f"its embedding {quoted(word)} cannot be used: {error}") from error


def _delta(change: LayerChange, file: WeightsFile, layer: Any, device: torch.device) -> Delta:
    weight = layer.weight

    def tensor(role: str, dtype: torch.dtype = weight.dtype) -> Tensor:
        held = _finite(file, change.tensors[role], dtype).to(device)
        if change.rows and role == "up":
            return torch.cat([held[begin:end] for begin, end in change.rows])
        return held

    if change.algorithm in ("difference", "whole"):
        parameters = dict(layer.named_parameters(recurse=False))
        parts = {
            name: _parameter(change, tensor(name, torch.float32), parameters[name], change.tensors[name])
            for name in change.tensors
        }
        return Difference(parts.get("weight"), parts.get("bias"))
    delta = _factored(change, tensor, tuple(weight.shape), _scale(change, file))
    magnitude = next((role for role in ("dora_scale", "magnitude") if role in change.tensors), None)
    if magnitude is None:
        return delta
    values = tensor(magnitude, torch.float32)
    by_input = magnitude == "dora_scale" and values.shape[0] != weight.shape[0]
    return Decomposed.of(delta, values.flatten(), layer, by_input=by_input)


def _factored(change: LayerChange, tensor: Any, shape: tuple[int, ...], scale: float) -> Factored:
    def factors(*roles: str) -> tuple[Tensor, ...]:
        return tuple(tensor(role) for role in roles if role in change.tensors)

    if change.algorithm == "loha":
        first = factors("hada_w1_a", "hada_w1_b", "hada_t1")
        return Hadamard(first, factors("hada_w2_a", "hada_w2_b", "hada_t2"), shape, scale)
    if change.algorithm == "lokr":
        first = factors("lokr_w1", "lokr_w1_a", "lokr_w1_b")
        return Kronecker(first, factors("lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"), shape, scale)
    down, up = tensor("down"), tensor("up")
    if "mid" in change.tensors:
        # A core between two 1x1 convolutions equals one convolution with the core's kernel.
        down = torch.einsum("abhw,bi->aihw", tensor("mid"), down.flatten(1))
    bias = tensor("up_bias") if "up_bias" in change.tensors else None
    kernel = (1,) * len(shape[2:])
    return LowRank(down.reshape(down.shape[0], *shape[1:]), up.reshape(*up.shape[:2], *kernel), scale, bias)


def _parameter(change: LayerChange, held: Tensor, parameter: Tensor, name: str) -> Tensor:
    """Return the difference to a parameter, in the parameter's dtype."""
    difference = held.reshape(parameter.shape)
    if change.algorithm == "whole":
        difference = difference - parameter.to(difference)
    return _checked(difference.to(parameter.dtype), name)


def _scale(change: LayerChange, file: WeightsFile) -> float:
    """Return the factor of a layer's change: alpha over rank, or the file's own factor."""
    if "scale" in change.tensors:
        return float(_finite(file, change.tensors["scale"], torch.float32))
    if "alpha" in change.tensors:
        alpha = float(_finite(file, change.tensors["alpha"], torch.float32))
        return 1.0 if change.rank is None else alpha / change.rank
    return change.scale


def _finite(file: WeightsFile, name: str, dtype: torch.dtype) -> Tensor:
    return _checked(file.read(name, torch.float32).to(dtype), name)


def _checked(tensor: Tensor, name: str) -> Tensor:
    if not tensor.isfinite().all():
        precision = str(tensor.dtype).removeprefix("torch.")
        raise LoraError(f"its tensor {quoted(name)} holds NaN or infinite values in {precision}; take a sound file")
    return tensor
