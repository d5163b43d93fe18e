"""Record the passes of a network on a GPU as CUDA graphs: https://docs.pytorch.org/docs/stable/notes/cuda.html.

A GPU's kernels are launched one by one from Python, a thousand of them for a pass. A small picture waits for the
launches, not for the kernels. A CUDA graph launches them all at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch

from imagegen_core.diffusion.graph_cache import GraphCache, Outputs
from imagegen_core.errors import SettingsError
from imagegen_core.memory_plan import MemoryPlan
from imagegen_core.settings import Settings

_CAPTURING = threading.Lock()  # a process captures one graph at a time, also on several GPUs


def graph_cache(network: Any, device: torch.device, settings: Settings, memory: MemoryPlan) -> GraphCache | None:
    """Return the cache of CUDA graphs for a network, or None without graphs.

    Args:
        network: The network, on its device.
        device: The device.
        settings: The settings. Without `cuda_graphs`, there are graphs where they are possible and have room.
        memory: The memory plan.

    Raises:
        SettingsError: The settings ask for CUDA graphs, but there can be none here.
    """
    if settings.cuda_graphs is None:
        is_possible = device.type == "cuda" and not settings.compile and memory.has_room_for_graphs
        return GraphCache(network, CudaRecorder(device)) if is_possible else None
    if not settings.cuda_graphs:
        return None
    asks = f"{settings.source('cuda_graphs')} asks for CUDA graphs, "
    if device.type != "cuda":
        raise SettingsError(f"{asks}but the model is on {device}: unset it, or use a CUDA device")
    if settings.compile:
        raise SettingsError(f"{asks}and {settings.source('compile')} compiles the network: unset either")
    if any(parameter.device.type != device.type for parameter in network.parameters()):
        raise SettingsError(f"{asks}but some of the network's weights are kept outside of {device}: unset it")
    return GraphCache(network, CudaRecorder(device))


class CudaRecorder:
    """Records on one GPU; implements `imagegen_core.diffusion.graph_cache.Recorder`.

    All graphs share one pool of memory. This is safe because they run one after another, on one stream, and because
    each result is copied before the next graph runs.
    """

    def __init__(self, device: torch.device) -> None:
        """Record on a CUDA device."""
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._graphs: WeakSet[torch.cuda.CUDAGraph] = WeakSet()
        self._pool_bytes = 0

    @property
    def memory_bytes(self) -> int:
        """The memory of the pool, in bytes."""
        return self._pool_bytes if self._graphs else 0

    def warm_up(self, run: Callable[[], Outputs]) -> Outputs:
        """Run on the stream of the recordings."""
        with torch.cuda.device(self._device):
            current = torch.cuda.current_stream()
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                outputs = run()
            current.wait_stream(self._stream)
            return tuple(tensor.clone() for tensor in outputs)  # in the memory of the present stream

    def record(self, run: Callable[[], Outputs]) -> tuple[Callable[[], object], Outputs]:
        """Capture a CUDA graph.

        Raises:
            RuntimeError: The work cannot be captured, or the memory is too small.
        """
        with _CAPTURING, torch.cuda.device(self._device):
            torch.cuda.synchronize()
            torch.cuda.empty_cache()  # the pool may take what the warm-up left
            before, graph = torch.cuda.memory_reserved(), torch.cuda.CUDAGraph()
            with torch.cuda.stream(self._stream):
                # Other threads may use other GPUs meanwhile.
                graph.capture_begin(self._pool(), capture_error_mode="thread_local")
                try:
                    outputs = run()
                finally:
                    graph.capture_end()
            self._pool_bytes = self.memory_bytes + torch.cuda.memory_reserved() - before
            self._graphs.add(graph)

        def replay() -> None:
            with torch.cuda.device(self._device):
                graph.replay()

        return replay, outputs

    def _pool(self) -> Any:
        """Return the pool of the living graphs, or a new one: torch refuses a pool whose graphs are all gone."""
        graph = next(iter(self._graphs), None)
        return torch.cuda.graph_pool_handle() if graph is None else graph.pool()
