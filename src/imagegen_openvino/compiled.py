"""Networks in OpenVINO that take and return torch's tensors."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any

import openvino
import torch
from torch import Tensor

from imagegen_openvino.conversion import PARAMETER
from imagegen_openvino.runtime import Runtime

_DTYPES = {openvino.Type.f32: torch.float32, openvino.Type.f16: torch.float16, openvino.Type.bf16: torch.bfloat16}
_FIRST_SIDE, _FIRST_TOKENS = 16, 77


class CompiledNetwork:
    """A compiled network with one output; only one thread may call it at a time."""

    def __init__(self, runtime: Runtime, model: Any, precision: str) -> None:
        """Compile a network, and call it once.

        OpenVINO's attention on a CPU (2026.4) keeps its choices from the first call. After a first picture of one
        token, all others would be wrong, so the first picture has several.
        """
        self._request = runtime.compile(model, precision)
        self(**{port.any_name: _first_input(port.any_name, port.partial_shape) for port in model.inputs})

    def __call__(self, **inputs: Tensor) -> Tensor:
        """Compute the output in float32; inputs of any dtype are converted to float32."""
        arrays = {name: tensor.float().contiguous().numpy() for name, tensor in inputs.items()}
        return torch.from_numpy(self._request.infer(arrays)[0].copy())


def _first_input(name: str, shape: Any) -> Tensor:
    opened = {"latents": _FIRST_SIDE, "tokens": _FIRST_TOKENS}.get(name, 1)
    sides = [size.get_length() if size.is_static else opened for size in shape]
    return torch.zeros(1, *sides[1:])


def constants(model: Any) -> dict[str, Any]:
    """Return the constants of a model that are parameters of the torch network, by the parameters' names."""
    nodes = (node for node in model.get_ops() if node.get_type_name() == "Constant")
    return {found[1]: node for node in nodes if (found := PARAMETER.fullmatch(node.get_friendly_name()))}


def give_weights(network: Any, model: Any) -> None:
    """Make the parameters of a torch network views of a model's constants; they must not be written to.

    The file of the constants is mapped, so they take memory only where they are read.
    """
    held = constants(model)
    for module_name, module in network.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            constant = held[f"{module_name}.{name}"]
            view = _of_memory(constant.data, constant, constant.get_element_type()).reshape(parameter.shape)
            setattr(module, name, torch.nn.Parameter(view, requires_grad=False))


def replace_constants(model: Any, changed: Iterable[tuple[str, Tensor]], precision: str) -> int:
    """Replace the constants of parameters, in the precision of the computation; return their number.

    Args:
        model: The model.
        changed: The names of parameters with their new values, in float32.
        precision: See `Runtime`.
    """
    held, stored = constants(model), {"fp32": openvino.Type.f32, "bf16": openvino.Type.bf16, "fp16": openvino.Type.f16}
    count = 0
    for name, tensor in changed:
        old = held[name]
        value = _constant(tensor.reshape(tuple(old.shape)), stored[precision])
        (reader,) = old.output(0).get_target_inputs()
        if reader.get_node().get_type_name() == "Convert":
            old = reader.get_node()
        if stored[precision] != openvino.Type.f32:
            value = openvino.opset13.convert(value, openvino.Type.f32)
        for reader in old.output(0).get_target_inputs():
            reader.replace_source_output(value.output(0))
        count += 1
    return count


def _constant(tensor: Tensor, kind: Any) -> Any:
    owned = openvino.Tensor(kind, openvino.Shape(list(tensor.shape)))
    _of_memory(owned.data, owned, kind).copy_(tensor.flatten())
    return openvino.op.Constant(owned)


def _of_memory(data: Any, owner: object, kind: Any) -> Tensor:
    """Return the memory of a numpy array as a tensor of one dimension, without a copy; it keeps the owner alive.

    numpy has no bf16, and torch warns about arrays that are read-only.
    """
    buffer = (ctypes.c_char * data.nbytes).from_address(data.ctypes.data)
    buffer.owner = owner
    return torch.frombuffer(buffer, dtype=_DTYPES[kind])
