"""Share the tensors of one file among the models of a process, as long as a model holds them.

Weights are read-only: LoRAs change layers' outputs, and a change of precision or device makes new tensors. So two
models of the same file, or with the same `Settings.base_model`, may hold the same memory.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable, Iterable
from itertools import chain
from weakref import WeakSet

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from imagegen_core.diffusion.stored_weights import stored_parts


class SharedWeights:
    """The tensors in memory by their origin, without a strong reference to any; for all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[Hashable, tuple[StorageWeakRef, torch.Size, tuple[int, ...], torch.dtype]] = {}
        self._networks: WeakSet[torch.nn.Module] = WeakSet()

    def find(self, origin: Hashable) -> torch.Tensor | None:
        """Return the tensor of this origin, or None if no model holds it any more."""
        with self._lock:
            if origin not in self._known:
                return None
            reference, shape, strides, dtype = self._known[origin]
            storage = torch.UntypedStorage._new_with_weak_ptr(reference.cdata)  # noqa: SLF001 - as torch's own cache
        if storage is None:
            return None
        tensor: torch.Tensor = torch.empty(0, dtype=dtype).set_(storage, 0, shape, strides)
        return tensor

    def add(self, origin: Hashable, tensor: torch.Tensor) -> None:
        """Remember a tensor that has its storage to itself."""
        reference = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        with self._lock:
            self._known[origin] = (reference, tensor.shape, tensor.stride(), tensor.dtype)

    def add_network(self, network: torch.nn.Module) -> None:
        """Remember a network with such tensors, and forget the tensors of networks that are gone."""
        with self._lock:
            self._networks.add(network)
            gone = [origin for origin, (reference, *_) in self._known.items() if reference.expired()]  # type: ignore[no-untyped-call]
            for origin in gone:
                del self._known[origin]

    def saved_bytes(self, networks: Iterable[torch.nn.Module]) -> int:
        """Return the bytes of these networks that other networks account for: each of two holders has a half."""
        own = set(networks)
        with self._lock:
            others = [_storages(network) for network in self._networks if network not in own]
        holders = Counter(chain.from_iterable(others))
        sizes = {place: size for network in own for place, size in _storages(network).items()}
        return sum(size - size // (1 + holders[place]) for place, size in sizes.items() if place in holders)


SHARED_WEIGHTS = SharedWeights()
"""The tensors of this process."""


def _storages(network: torch.nn.Module) -> dict[int, int]:
    """Return the address and the bytes of each storage of a network."""
    tensors = (tensor for tensor in chain(network.parameters(), network.buffers()) if not tensor.is_meta)
    storages = (part.untyped_storage() for part in chain.from_iterable(map(stored_parts, tensors)))
    return {storage.data_ptr(): storage.nbytes() for storage in storages}
