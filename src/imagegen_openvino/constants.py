"""The constants of a network in OpenVINO, as torch's tensors."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterable
from typing import Any

import openvino
import torch
from torch import Tensor

_PARAMETER = re.compile(
    r"self\.(?:model\.)?network\.(.+)"
)  # a trace without some arguments wraps the network once more
_DTYPES = {openvino.Type.f32: torch.float32, openvino.Type.f16: torch.float16, openvino.Type.bf16: torch.bfloat16}
_TYPES = {dtype: kind for kind, dtype in _DTYPES.items()}
_STORED = {"fp32": openvino.Type.f32, "bf16": openvino.Type.bf16, "fp16": openvino.Type.f16}


def parameters(model: Any) -> dict[str, Any]:
    """Return the constants of a model that are parameters of the torch network, by the parameters' names."""
    nodes = (node for node in model.get_ops() if node.get_type_name() == "Constant")
    return {name: node for node in nodes if (name := parameter_name(node)) is not None}


def parameter_name(node: Any) -> str | None:
    """Return the name of a constant's parameter in the torch network; None for other constants."""
    found = _PARAMETER.fullmatch(node.get_friendly_name())
    return None if found is None else found[1]


def constant_of(output: Any) -> Any | None:
    """Return the constant behind an output, or behind its conversion to float32; None if it is computed."""
    node = output.get_node()
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return node if node.get_type_name() == "Constant" else None


def tensor_of(constant: Any) -> Tensor:
    """Return a view of a constant; it must not be written to."""
    view = _of_memory(constant.data, constant, constant.get_element_type())
    return view.reshape(tuple(constant.shape))


def float_constant(view: Tensor, name: str) -> Any:
    """Return a float32 node with a name, which shares the memory of a contiguous tensor.

    The memory must outlive the node, and each network that is compiled from it.
    """
    kind = _TYPES[view.dtype]
    array = view.numpy() if kind == openvino.Type.f32 else view.view(torch.int16).numpy()
    constant = openvino.op.Constant(openvino.Tensor(array, openvino.Shape(list(view.shape)), kind))
    constant.set_friendly_name(name)
    return _in_float(constant)


def give_weights(network: Any, model: Any) -> None:
    """Make the parameters of a torch network views of a model's constants; they must not be written to.

    The file of the constants is mapped, so they take memory only where they are read.
    """
    held = parameters(model)
    for module_name, module in network.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            view = tensor_of(held[f"{module_name}.{name}"]).reshape(parameter.shape)
            setattr(module, name, torch.nn.Parameter(view, requires_grad=False))


def replace_parameters(model: Any, changed: Iterable[tuple[str, Tensor]], precision: str) -> int:
    """Replace the constants of parameters, in the precision of the computation; return their number.

    Args:
        model: The model.
        changed: The names of parameters with their new values, in float32.
        precision: See `imagegen_openvino.runtime.Runtime`.
    """
    held, kind = parameters(model), _STORED[precision]
    count = 0
    for name, tensor in changed:
        old = held[name]
        owned = openvino.Tensor(kind, old.shape)
        _of_memory(owned.data, owned, kind).copy_(tensor.flatten())
        constant = openvino.op.Constant(owned)
        constant.set_friendly_name(old.get_friendly_name())
        (reader,) = old.output(0).get_target_inputs()
        if reader.get_node().get_type_name() == "Convert":
            old = reader.get_node()
        replace(old, _in_float(constant))
        count += 1
    return count


def replace(old: Any, new: Any) -> None:
    """Let the readers of a node's only output read another node."""
    redirect(old.output(0), new)


def redirect(output: Any, new: Any) -> None:
    """Let the readers of an output read another node, which has one output."""
    for reader in output.get_target_inputs():
        reader.replace_source_output(new.output(0))


def _in_float(constant: Any) -> Any:
    if constant.get_element_type() == openvino.Type.f32:
        return constant
    return openvino.opset13.convert(constant, openvino.Type.f32)


def _of_memory(data: Any, owner: object, kind: Any) -> Tensor:
    """Return the memory of a numpy array as a tensor of one dimension, without a copy; it keeps the owner alive.

    numpy has no bf16, and torch warns about arrays that are read-only.
    """
    buffer = (ctypes.c_char * data.nbytes).from_address(data.ctypes.data)
    buffer.owner = owner
    return torch.frombuffer(buffer, dtype=_DTYPES[kind])
