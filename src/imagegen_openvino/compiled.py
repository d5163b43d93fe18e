"""Networks in OpenVINO that take and return torch's tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from imagegen_openvino.input_ranges import InputRanges
from imagegen_openvino.int8 import quantize, with_limits
from imagegen_openvino.rewriting import rewrite_upsamplings, split_gates
from imagegen_openvino.runtime import Runtime

_FIRST_SIDE, _FIRST_TOKENS = 16, 77


class CompiledNetwork:
    """A compiled network with one output; only one thread may call it at a time."""

    def __init__(
        self, runtime: Runtime, model: Any, precision: str, *, doubles: bool, ranges: InputRanges | None = None
    ) -> None:
        """Compile a network, and call it once.

        OpenVINO's attention on a CPU (2026.4) keeps its choices from the first call. After a first picture of one
        token, all others would be wrong, so the first picture has several.

        Args:
            runtime: The device.
            model: The converted network; it is not changed.
            precision: See `Runtime`.
            doubles: Whether each upsampling doubles the sides exactly, for all pictures of this network.
            ranges: For int8. The network learns them until they are complete.
        """
        self._rewritten = model.clone()  # it shares the constants
        self._tensors: list[Tensor] = []
        self._ranges, self._names = None, []
        if runtime.is_cpu:
            if doubles:
                self._tensors += rewrite_upsamplings(self._rewritten, quantized=ranges is not None)
            self._tensors += split_gates(self._rewritten)
        if ranges is not None and ranges.complete:
            quantize(self._rewritten, ranges.limits)
        elif ranges is not None:
            self._rewritten, self._names = with_limits(self._rewritten)
        self._request = runtime.compile(self._rewritten, precision)
        self(**{port.any_name: _first_input(port.any_name, port.partial_shape) for port in model.inputs})
        self._ranges = ranges

    def __call__(self, **inputs: Tensor) -> Tensor:
        """Compute the output in float32; inputs of any dtype are converted to float32."""
        arrays = {name: tensor.float().contiguous().numpy() for name, tensor in inputs.items()}
        results = self._request.infer(arrays)
        if self._ranges is not None and not self._ranges.complete:
            self._ranges.add(self._names, results[1])
        return torch.from_numpy(results[0].copy())


def _first_input(name: str, shape: Any) -> Tensor:
    opened = {"latents": _FIRST_SIDE, "tokens": _FIRST_TOKENS}.get(name, 1)
    sides = [size.get_length() if size.is_static else opened for size in shape]
    return torch.zeros(1, *sides[1:])
