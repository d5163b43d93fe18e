"""Replay forward passes from recordings of their kernels, one recording for each kind of pass.

A recording repeats the same kernels on the same addresses. So it is bound to the shapes of the inputs, to the LoRAs and
to all that Python decided during the pass. `imagegen_core.diffusion.cuda_graphs` makes recordings by CUDA graphs.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import torch
from torch import Tensor

from imagegen_core.diffusion.denoising import Denoising
from imagegen_core.diffusion.extension import Extension
from imagegen_core.diffusion.loras.adapters import Adapter
from imagegen_core.errors import first_line

logger = logging.getLogger(__name__)

Outputs = tuple[Tensor, ...]

_KEPT = 16  # kinds of passes; the least recently used leaves first


class Recorder(Protocol):
    """Records the device's work of a function."""

    def warm_up(self, run: Callable[[], Outputs]) -> Outputs:
        """Run the function once as `record` will, so that libraries set themselves up outside of the recording."""

    def record(self, run: Callable[[], Outputs]) -> tuple[Callable[[], object], Outputs]:
        """Return a function that repeats the work of `run`, and the tensors that it writes the results into.

        Raises:
            RuntimeError: The work cannot be recorded, for example because it waits for the device.
        """

    @property
    def memory_bytes(self) -> int:
        """The memory of all recordings that are still referenced, in bytes."""


@dataclass(frozen=True, slots=True)
class _Graph:
    """A recorded pass.

    Attributes:
        inputs: The tensors that the recording reads.
        replay: Repeats the pass.
        outputs: The tensors that the recording writes.
    """

    inputs: list[Tensor]
    replay: Callable[[], object]
    outputs: Outputs


class _Unrecorded(Enum):
    """The state of a kind of pass without a recording."""

    SEEN = "seen"  # the next pass is recorded
    REFUSED = "refused"  # the recording failed, or gave other bits


_Key = tuple[tuple[Adapter, ...], Hashable]


class GraphCache:
    """The recordings of one network.

    The first pass of a kind runs as always, the second is recorded, and the others are replayed. A recording is used
    only if it gives the bits of an ordinary pass. So history changes the time of a pass, and never its results.
    """

    def __init__(self, network: Callable[..., Outputs], recorder: Recorder) -> None:
        """Begin without recordings.

        Args:
            network: The network; it returns a tuple of tensors.
            recorder: Makes the recordings.
        """
        self._network = network
        self._recorder = recorder
        self._graphs: OrderedDict[_Key, _Graph | _Unrecorded] = OrderedDict()

    @property
    def memory_bytes(self) -> int:
        """The memory of the recordings and their inputs, in bytes."""
        graphs = [graph for graph in self._graphs.values() if isinstance(graph, _Graph)]
        return self._recorder.memory_bytes + sum(tensor.nbytes for graph in graphs for tensor in graph.inputs)

    def call(self, adapters: tuple[Adapter, ...], *args: Any, **kwargs: Any) -> Outputs:
        """Call the network, from a recording if there is one.

        Args:
            adapters: The active LoRAs.
            *args: The network's arguments; tensors may be nested in dictionaries, lists and tuples.
            **kwargs: The network's arguments by name.
        """
        tensors: list[Tensor] = []
        key = (adapters, _kind((args, kwargs), tensors))
        graph = self._graphs.get(key)
        if graph is None:
            self._graphs[key] = _Unrecorded.SEEN
            if len(self._graphs) > _KEPT:
                self._graphs.popitem(last=False)
        else:
            self._graphs.move_to_end(key)
        if graph is _Unrecorded.SEEN:
            return self._recorded(key, (args, kwargs), tensors)
        if isinstance(graph, _Graph):
            for target, source in zip(graph.inputs, tensors, strict=True):
                target.copy_(source)
            graph.replay()
            return tuple(tensor.clone() for tensor in graph.outputs)
        return self._network(*args, **kwargs)

    def forget(self, name: str) -> None:
        """Drop the recordings with a LoRA before its tensors leave the memory; `name` is the adapter's."""
        for key in [key for key in self._graphs if any(adapter.name == name for adapter in key[0])]:
            del self._graphs[key]

    def _recorded(self, key: _Key, arguments: Any, tensors: list[Tensor]) -> Outputs:
        """Run a pass, and keep a recording of it if the recording gives the same bits."""
        inputs = [tensor.clone() for tensor in tensors]
        args, kwargs = _with_tensors(arguments, iter(inputs))

        def run() -> Outputs:
            return self._network(*args, **kwargs)

        usual = self._recorder.warm_up(run)
        self._graphs[key] = _Unrecorded.REFUSED
        try:
            replay, outputs = self._recorder.record(run)
            replay()
        except RuntimeError as error:
            logger.warning(
                "A pass of the network cannot be replayed from a CUDA graph (%s): such passes run kernel by kernel; "
                "set IMAGEGEN_CUDA_GRAPHS=0 to record none",
                first_line(error),
            )
            return usual
        if all(map(_are_identical, usual, outputs)):
            self._graphs[key] = _Graph(inputs, replay, outputs)
        else:
            logger.warning(
                "A CUDA graph gives other bits than the pass that it records: such passes run kernel by kernel; set "
                "IMAGEGEN_CUDA_GRAPHS=0 to record none"
            )
        return usual


def is_replayable(states: Sequence[Denoising]) -> bool:
    """Return whether a pass of these states may be a recording.

    An extension with a `before_network` may change the network's modules or wrap the network, and a recording would
    repeat that of an earlier pass. Such requests run kernel by kernel.
    """
    return all(
        type(extension).before_network is Extension.before_network for state in states for extension in state.parts
    )


def _kind(value: Any, tensors: list[Tensor]) -> Hashable:
    """Append a value's tensors to `tensors`, and return the rest: values of one kind differ in their tensors' data."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, Mapping):
        return tuple((name, _kind(part, tensors)) for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(_kind(part, tensors) for part in value)
    return value  # type: ignore[no-any-return]


def _with_tensors(value: Any, tensors: Iterator[Tensor]) -> Any:
    """Return a value with other tensors, in the order of `_kind`."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, Mapping):
        return {name: _with_tensors(part, tensors) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_with_tensors(part, tensors) for part in value)
    return value


def _are_identical(one: Tensor, other: Tensor) -> bool:
    """Compare bits, because NaN equals no value."""
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))
