"""A recorder for machines without a GPU: it keeps torch's operators as a CUDA graph keeps kernels.

A replay runs the same operators on the same tensors, and no Python of the network. So a forgotten input, a change of
LoRAs or a decision of an earlier pass shows in the results. It shows nothing about streams and the GPU's memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

Outputs = tuple[Tensor, ...]

_WAITING = {"aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::is_nonzero"}


class Tape(TorchDispatchMode):
    """The operators of a run, with their arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in _WAITING:
            raise RuntimeError(f"{func._schema.name} waits for the device during the recording")
        result = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self, outputs: Outputs) -> None:
        """Run the operators again, and write their results into `outputs`."""
        present: dict[int, Tensor] = {}

        def now(recorded: Tensor) -> Tensor:
            return present.get(id(recorded), recorded)

        for func, args, kwargs, result in self._calls:
            again = func(*tree_map_only(Tensor, now, args), **tree_map_only(Tensor, now, kwargs))
            present |= {id(old): new for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True)}
        for output in outputs:
            output.copy_(now(output))


class TapeRecorder:
    """Implements `imagegen_core.diffusion.graph_cache.Recorder`.

    Attributes:
        recorded: The number of recordings so far.
        replayed: The number of replays so far.
        memory_bytes: What a recorder reports for its memory.
    """

    memory_bytes = 1000

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def warm_up(self, run: Callable[[], Outputs]) -> Outputs:
        return run()

    def record(self, run: Callable[[], Outputs]) -> tuple[Callable[[], object], Outputs]:
        self.recorded += 1
        with Tape() as tape:
            outputs = run()
        for output in outputs:
            output.fill_(torch.nan)  # a capture computes nothing

        def replay() -> None:
            self.replayed += 1
            tape.replay(outputs)

        return replay, outputs
