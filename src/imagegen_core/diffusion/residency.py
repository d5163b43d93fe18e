"""Keep a pipeline's components on their device only while they compute, as the memory plan says.

A component that leaves keeps its weights in main memory, page-locked where the device is a GPU. No weight is copied
back: it never changes while the component draws. Only a component whose precision or layout was changed on the device
is copied once.

A hook before each component's forward pass brings the component, and sends the others away. So a text encoder comes
for a new prompt, the network for the next step, and the autoencoder for a finished picture. A cached prompt brings
nothing.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import cached_property, partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from imagegen_core.diffusion.memory import tensor_bytes, weight_bytes
from imagegen_core.diffusion.stored_weights import Int8Weight, stored_parts
from imagegen_core.memory_plan import STREAMED_LAYERS, MemoryPlan

_MAIN = torch.device("cpu")
_VAE = "vae"


class Residency:
    """The places of a pipeline's components.

    Attributes:
        present: The offloaded components that are on the device now.
    """

    def __init__(self, pipe: Any, denoiser: str, device: torch.device, plan: MemoryPlan) -> None:
        """Move the components that stay to the device, and put hooks on the others.

        Args:
            pipe: The diffusers pipeline, in main memory.
            denoiser: The denoising network's name in the pipeline.
            device: The device to compute on.
            plan: The memory plan.
        """
        modules = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
        self.present: set[str] = set()
        self._device, self._denoiser, self._streamed = device, denoiser, plan.streamed
        self._moved = {
            name: _Moved(module.modules(), device) for name, module in modules.items() if name in plan.offloaded
        }
        for name, module in modules.items():
            if name in self._moved:
                self._watch(name, module)
            elif name == denoiser and plan.streamed:
                self._stream = _Stream(module, device)
            elif device.type != "cpu":
                module.to(device)
        self._bytes = {name: self._held(name, module) for name, module in modules.items()}
        self._pipe = pipe
        self._others: tuple[torch.nn.Module, ...] = ()

    def stays(self, *others: torch.nn.Module) -> None:
        """Count further networks on the device, such as a tiny autoencoder."""
        self._others = others

    def bring(self, name: str) -> None:
        """Bring a component to the device; components of another task leave first."""
        if name not in self._moved or name in self.present:
            return
        for other in [other for other in self.present if self._task(other) != self._task(name)]:
            self._moved[other].leave()
            self.present.discard(other)
        self._moved[name].come()
        self.present.add(name)

    def bytes_with(self, name: str) -> int:
        """Return the bytes of weights on the device while a component computes."""
        if not self._moved and not self._streamed:
            return self._all_bytes
        present = sum(
            size
            for other, size in self._bytes.items()
            if other not in self._moved or self._task(other) == self._task(name)
        )
        return present + weight_bytes(self._pipe, *self._others) - weight_bytes(self._pipe)

    @property
    def most_bytes(self) -> int:
        """The most bytes of weights on the device at once."""
        return max(map(self.bytes_with, self._bytes), default=0)

    @cached_property
    def _all_bytes(self) -> int:
        return weight_bytes(self._pipe, *self._others)

    def _task(self, name: str) -> str:
        """Return the denoising network, the autoencoder, or the text encoders, which come and leave together."""
        return name if name in (self._denoiser, _VAE) else "text"

    def _held(self, name: str, module: torch.nn.Module) -> int:
        sizes = [tensor_bytes(tensor) for tensor in _tensors(module)]
        return STREAMED_LAYERS * max(sizes) if self._streamed and name == self._denoiser else sum(sizes)

    def _watch(self, name: str, module: torch.nn.Module) -> None:
        """Bring a component before it computes; an autoencoder's parts are called without the whole."""
        residency = weakref.ref(self)  # a hook with the object itself would make a reference cycle

        def before(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if (owner := residency()) is None:
                return None
            owner.bring(name)
            return tree_map(owner._to_device, (args, kwargs))  # noqa: SLF001 - the same class

        for part in module.children() if name == _VAE else [module]:
            part.register_forward_pre_hook(before, with_kwargs=True)

    def _to_device(self, value: Any) -> Any:
        return value.to(self._device) if isinstance(value, Tensor) else value


class _Moved:
    """The tensors of modules that come and leave together."""

    def __init__(self, modules: Iterable[torch.nn.Module], device: torch.device) -> None:
        self._device = device
        self._tables: list[dict[str, Any]] = [
            table
            for module in modules
            for table in (module._parameters, module._buffers)  # noqa: SLF001
        ]
        self._waiting: list[tuple[dict[str, Any], str, Tensor]] = []
        if device.type == "cuda":
            self._exchange(_locked)

    @property
    def is_present(self) -> bool:
        """Whether the tensors are on the device."""
        return bool(self._waiting)

    def come(self) -> None:
        """Copy the weights to the device; their originals wait in main memory."""
        self._waiting = [
            (table, name, tensor) for table in self._tables for name, tensor in table.items() if tensor is not None
        ]
        self._exchange(lambda tensor: tensor.to(self._device, non_blocking=True))

    def leave(self) -> None:
        """Put the originals back; a tensor that was converted on the device is copied back once."""
        for table, name, original in self._waiting:
            present = table[name]
            is_same = (present.dtype, present.stride()) == (original.dtype, original.stride())
            table[name] = original if is_same else _like(present, present.data.to(_MAIN))
        self._waiting = []

    def present_tensors(self) -> list[Tensor]:
        """Return the plain tensors on the device."""
        return [part for table, name, _ in self._waiting for part in stored_parts(table[name])]

    def _exchange(self, change: Callable[[Tensor], Tensor]) -> None:
        """Replace each tensor; a tensor in several places stays the same tensor."""
        changed: dict[int, Tensor] = {}
        for table in self._tables:
            for name, tensor in table.items():
                if tensor is not None:
                    if id(tensor) not in changed:
                        changed[id(tensor)] = _like(tensor, change(tensor.data))
                    table[name] = changed[id(tensor)]


class _Stream:
    """Makes a network's layers come one after another; on a GPU, the next arrives while a layer computes.

    The first pass teaches the order of the layers. diffusers' group offloading does the same, but replaces the data of
    parameters, which torch refuses for views in inference mode.
    """

    def __init__(self, network: torch.nn.Module, device: torch.device) -> None:
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._next: dict[_Moved, _Moved] = {}
        self._last: _Moved | None = None
        stream = weakref.ref(self)
        self._layers = []
        for module in network.modules():
            if any(True for _ in chain(module.parameters(recurse=False), module.buffers(recurse=False))):
                layer = _Moved([module], device)
                self._layers.append(layer)
                module.register_forward_pre_hook(partial(_call, stream, "_before", weakref.ref(layer)))
                module.register_forward_hook(partial(_call, stream, "_after", weakref.ref(layer)), always_call=True)

    def _before(self, layer: _Moved) -> None:
        if not layer.is_present:
            self._fetch(layer)
        if self._side is not None:
            computing = torch.cuda.current_stream()
            computing.wait_stream(self._side)
            for tensor in layer.present_tensors():
                tensor.record_stream(computing)
        if self._last is not None:
            self._next[self._last] = layer
        self._last = layer
        following = self._next.get(layer)
        if self._side is not None and following is not None and not following.is_present:
            self._fetch(following)

    def _after(self, layer: _Moved) -> None:
        layer.leave()

    def _fetch(self, layer: _Moved) -> None:
        with nullcontext() if self._side is None else torch.cuda.stream(self._side):
            layer.come()


def _call(stream: Any, method: str, layer: Any, *_: Any) -> None:
    """Call a method of a stream, as a hook; strong references would make a cycle with the layer."""
    if (owner := stream()) is not None and (moved := layer()) is not None:
        getattr(owner, method)(moved)


def _locked(tensor: Tensor) -> Tensor:
    """Return a copy in page-locked memory, from where copies to a GPU are fastest."""
    if isinstance(tensor, Int8Weight):
        return Int8Weight(tensor.stored.pin_memory(), tensor.scale.pin_memory())
    return tensor.pin_memory()


def _like(original: Tensor, tensor: Tensor) -> Tensor:
    return torch.nn.Parameter(tensor, requires_grad=False) if isinstance(original, torch.nn.Parameter) else tensor


def _tensors(module: torch.nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())
