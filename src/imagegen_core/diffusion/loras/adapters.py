"""The LoRAs of one pipeline: the loaded and the active ones.

A forward hook on each layer adds the changes of the active LoRAs. The layers keep their weights and their class. So
with all LoRAs off, each layer computes exactly the same bits as before any LoRA was loaded.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imagegen_core.diffusion.embeddings import Embedding, Embeddings
from imagegen_core.diffusion.loras.deltas import Delta
from imagegen_core.diffusion.loras.reading import LayerKey, LoadedLora, layer_shapes, load_lora, pipeline_layers
from imagegen_core.errors import InvalidRequestError, ModelLoadError, ModelNotFoundError
from imagegen_core.family import Family
from imagegen_core.resolution.style_catalog import CatalogedStyle
from imagegen_core.styles import LoraUse

_KEPT = 16  # LoRAs to keep in memory; the least recently used leaves first


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA at one strength.

    Attributes:
        name: A key for the file and its version.
        title: The LoRA's name in errors.
        path: The LoRA's file.
        weight: The factor for its changes.
    """

    name: str
    title: str
    path: Path
    weight: float

    @classmethod
    def of_style(cls, style: CatalogedStyle, level: int) -> Adapter:
        """Return the adapter of a style at `level`, counted from 1; a level above the style's levels means the last.

        Raises:
            ModelNotFoundError: The style's file does not exist.
        """
        weight = float(style.levels[min(level, len(style.levels)) - 1])
        return cls(_state(style.path), f"style {style.id!r}", style.path, weight)

    @classmethod
    def of_lora(cls, lora: LoraUse) -> Adapter:
        """Return the adapter of a mode's LoRA.

        Raises:
            ModelNotFoundError: The LoRA's file does not exist.
        """
        return cls(_state(lora.path), f"LoRA {lora.adapter_name!r}", lora.path, lora.strength)

    def __str__(self) -> str:
        return f"{self.title} {self.weight!r}"


def _state(path: Path) -> str:
    """Return a key for the present version of a file; a replaced file has another key."""
    try:
        status = path.stat()
    except OSError as error:
        raise ModelNotFoundError(f"There is no LoRA {path}: correct its path, or put the file back") from error
    state = f"{path.absolute()} {status.st_size} {status.st_mtime_ns}"
    return hashlib.sha256(state.encode()).hexdigest()[:16]


@dataclass(slots=True)
class _ActiveDeltas:
    """The active changes of each layer's output; the hooks share this object, so that one assignment switches all."""

    by_layer: Mapping[LayerKey, tuple[tuple[Delta, float], ...]] = field(default_factory=dict)


def _add(active: _ActiveDeltas, key: LayerKey, layer: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
    """Return the layer's output with the active changes, as a forward hook; None keeps the output."""
    changes = active.by_layer.get(key)
    if changes is None:
        return None
    adapted = output
    for delta, weight in changes:
        adapted = adapted + delta.output(layer, inputs[0], output) * weight
    return adapted


class Adapters:
    """The LoRAs of one pipeline.

    Attributes:
        layers: The shapes of the pipeline's layers, to check a LoRA's file against.
        active: The active LoRAs, in the order of their addition.
        memory_bytes: The memory of the loaded LoRAs, in bytes.
    """

    def __init__(
        self,
        pipe: Any,
        family: Family,
        embeddings: Embeddings,
        most_idle_bytes: int,
        device: torch.device,
        on_unload: Callable[[str], None] | None = None,
    ) -> None:
        """Read the layers of a diffusers pipeline.

        Args:
            pipe: The pipeline.
            family: The checkpoint's family.
            embeddings: The pipeline's embeddings; they convert a LoRA's embeddings.
            most_idle_bytes: The memory limit for inactive LoRAs, in bytes; full differences are as large as a model.
            device: The pipeline's device.
            on_unload: Called with an adapter's name before its tensors leave the memory.
        """
        self._embeddings = embeddings
        self._on_unload = on_unload
        self._most_idle_bytes = most_idle_bytes
        self._device = device
        self.layers = layer_shapes(pipe, family)
        self.active: tuple[Adapter, ...] = ()
        self.memory_bytes = 0
        self._modules = pipeline_layers(pipe)
        self._loaded: OrderedDict[str, LoadedLora] = OrderedDict()
        self._hooks: dict[LayerKey, Any] = {}
        self._deltas = _ActiveDeltas()

    def has(self, adapter: Adapter) -> bool:
        """Return whether an adapter's file is loaded, at any strength."""
        return adapter.name in self._loaded

    @property
    def embeddings(self) -> list[Embedding]:
        """The embeddings of the active LoRAs."""
        return [embedding for adapter in self.active for embedding in self._loaded[adapter.name].embeddings]

    def changed_parameters(self, network: str) -> Iterator[tuple[str, Tensor]]:
        """Yield the parameters of a network that the active LoRAs change: each name, and the changed values in float32.

        Args:
            network: The network's name in the pipeline.
        """
        for (holder, module), changes in self._deltas.by_layer.items():
            if holder != network:
                continue
            layer = self._modules[holder, module]
            changed: dict[str, Tensor] = {}
            for delta, weight in changes:
                for name, change in delta.parameters(layer).items():
                    changed[name] = changed.get(name, getattr(layer, name).float()) + change * weight
            yield from ((f"{module}.{name}", tensor) for name, tensor in changed.items())

    def use(self, wanted: tuple[Adapter, ...]) -> None:
        """Activate exactly these LoRAs, and load new ones.

        Raises:
            InvalidRequestError: A LoRA cannot be read, or does not fit the network; nothing has changed.
        """
        if wanted == self.active:
            return
        loras = [(self._load(adapter), adapter.weight) for adapter in wanted]
        by_layer: dict[LayerKey, tuple[tuple[Delta, float], ...]] = {}
        for lora, weight in loras:
            for key, deltas in lora.deltas.items() if weight else ():
                by_layer[key] = (*by_layer.get(key, ()), *((delta, weight) for delta in deltas))
        for key in by_layer.keys() - self._hooks.keys():
            self._hooks[key] = self._modules[key].register_forward_hook(partial(_add, self._deltas, key))
        self._deltas.by_layer = by_layer
        self.active = wanted
        self._make_room()

    def _load(self, adapter: Adapter) -> LoadedLora:
        lora = self._loaded.get(adapter.name)
        if lora is None:
            if _state(adapter.path) != adapter.name:
                raise InvalidRequestError(
                    f"The {adapter.title} cannot be used: {adapter.path} was replaced while the picture waited; "
                    "ask again"
                )
            try:
                lora = load_lora(adapter.path, self.layers, self._modules, self._embeddings, self._device)
            except ModelLoadError as error:
                raise InvalidRequestError(f"The {adapter.title} cannot be used: {error}") from error
            self._loaded[adapter.name] = lora
            self.memory_bytes += lora.memory_bytes
        self._loaded.move_to_end(adapter.name)
        return lora

    def _make_room(self) -> None:
        """Remove the least recently used LoRAs above the limits, and the hooks of layers without changes."""
        active = {adapter.name for adapter in self.active}
        idle = [name for name in self._loaded if name not in active]
        idle_bytes = sum(self._loaded[name].memory_bytes for name in idle)
        excess: list[str] = []
        while idle and (len(self._loaded) - len(excess) > _KEPT or idle_bytes > self._most_idle_bytes):
            excess.append(idle.pop(0))
            idle_bytes -= self._loaded[excess[-1]].memory_bytes
        if not excess:
            return
        for name in excess:
            if self._on_unload:
                self._on_unload(name)
            self.memory_bytes -= self._loaded.pop(name).memory_bytes
        changed = {key for lora in self._loaded.values() for key in lora.deltas}
        for key in self._hooks.keys() - changed:
            self._hooks.pop(key).remove()
