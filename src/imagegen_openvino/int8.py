"""Make the large layers of a network compute in int8.

OpenVINO computes a layer in int8 if its weight is stored so, and if its input is rounded to 256 levels. The levels lie
between the smallest and the largest number that the layer has read in trial pictures (https://arxiv.org/abs/1712.05877).
They are the same for all pictures, so that a picture does not depend on its company.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import openvino
import torch
from openvino import opset13 as ops

from imagegen_openvino.constants import constant_of, parameter_name, tensor_of
from imagegen_openvino.input_ranges import Limits

_CHANNELS = 128  # of a convolution that gains
_WEIGHTS = 640 * 640  # of a linear layer that gains
_LARGEST = 127
_LEVELS = 256
_TOKENS = 3  # the dimensions of a linear layer's input; timesteps have two


class _Layer(NamedTuple):
    node: Any
    name: str
    constant: Any


def quantize(model: Any, ranges: Limits) -> None:
    """Let the large layers of a model compute in int8.

    Args:
        model: The model.
        ranges: The range of each layer's input.
    """
    rounded: dict[tuple[str, int], Any] = {}
    for layer in list(_large_layers(model)):
        source = layer.node.input_value(0)
        place = (source.get_node().get_name(), source.get_index())
        if place not in rounded:
            low, high = (ops.constant(np.array(limit, np.float32)) for limit in _levels_with_zero(*ranges[layer.name]))
            rounded[place] = ops.fake_quantize(source, low, high, low, high, _LEVELS)
        layer.node.input(0).replace_source_output(rounded[place].output(0))
        layer.node.input(1).replace_source_output(_int8(tensor_of(layer.constant).float()).output(0))


def with_limits(model: Any) -> tuple[Any, list[str]]:
    """Return a model with a second output, and the names of its large layers.

    The second output is a vector: the smallest input of each layer, then the largest.
    """
    layers = list(_large_layers(model))
    sources = [layer.node.input_value(0) for layer in layers]
    limits = [
        ops.reshape(reduce(source, _all_axes(source)), [1], False)
        for reduce in (ops.reduce_min, ops.reduce_max)
        for source in sources
    ]
    outputs = [model.outputs[0].get_node().input_value(0), ops.concat(limits, 0).output(0)]
    return openvino.Model(outputs, model.get_parameters(), model.get_friendly_name()), [layer.name for layer in layers]


def _large_layers(model: Any) -> Iterator[_Layer]:
    """Yield the convolutions and linear layers that gain from int8."""
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind not in ("Convolution", "MatMul") or (constant := constant_of(node.input_value(1))) is None:
            continue
        name, shape = parameter_name(constant), tuple(constant.shape)
        if name is None:
            continue
        if kind == "Convolution":
            is_large = min(shape[:2]) >= (_CHANNELS if shape[2:] != (1, 1) else _WEIGHTS**0.5)
        else:
            is_large = np.prod(shape) >= _WEIGHTS and _reads_pixels(node.input_value(0))
        if is_large:
            yield _Layer(node, name, constant)


def _reads_pixels(source: Any) -> bool:
    """Return whether a linear layer's input comes from the picture: prompts have few tokens, with outliers."""
    return len(source.get_partial_shape()) == _TOKENS and source.get_node().get_type_name() != "Parameter"


def _all_axes(source: Any) -> list[int]:
    return list(range(len(source.get_partial_shape())))


def _levels_with_zero(low: float, high: float) -> tuple[float, float]:
    """Widen a range so that one of its levels is 0.0, the value of padding; a limit may lose half a step."""
    low, high = min(low, 0.0), max(high, 0.0)
    last = _LEVELS - 1
    zero = round(-low / ((high - low) / last or 1.0))
    step = max(-low / zero if zero else 0.0, high / (last - zero) if zero < last else 0.0) or 1.0
    return -zero * step, (last - zero) * step


def _int8(weight: torch.Tensor) -> Any:
    """Return a weight in int8 with a scale for each output."""
    largest = weight.abs().amax(tuple(range(1, weight.ndim)), keepdim=True).clamp_min(1e-12)
    levels = (weight / largest * _LARGEST).round().to(torch.int8)
    scales = ops.constant((largest / _LARGEST).numpy())
    return ops.multiply(ops.convert(ops.constant(levels.numpy()), openvino.Type.f32), scales)
