"""Group norms as means over pixels, which OpenVINO computes on a CPU in the layout of convolutions.

OpenVINO's own group norm copies the picture into another layout and back. The means of each channel need no copy. All
numbers of a channel stay in float32, also in a network of bf16. Only the picture itself has the network's precision:

    y = (x - high) * scale + (bias - low * scale)    with mean = high + low, and high exact in bf16
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
from openvino import opset13 as ops

from imagegen_openvino.constants import replace

_KEPT = "in_float32/"  # begins the names of the nodes that keep float32
_SPLIT = 65537.0  # leaves the upper eight bits of a float32's 24 bits (https://doi.org/10.1007/BF01397083)
_IMAGE = 4  # the dimensions of a picture


def replace_group_norms(model: Any) -> None:
    """Replace the group norms of pictures [rows, channels, height, width]; `keep_float32` must follow in the file."""
    for node in model.get_ordered_ops():
        if node.get_type_name() == "GroupNormalization" and len(node.get_output_partial_shape(0)) == _IMAGE:
            norm = _normalized(node)
            norm.set_friendly_name(node.get_friendly_name())
            replace(node, norm)


def keep_float32(file: Path) -> None:
    """Mark the nodes that keep float32 in a network's XML file; OpenVINO's Python API cannot mark a node."""
    tree = ET.parse(file)  # noqa: S314 - OpenVINO has written the file
    for layer in tree.iter("layer"):
        if str(layer.get("name")).startswith(_KEPT) and layer.get("type") != "Const":
            described = layer.find("rt_info")
            if described is None:
                described = ET.Element("rt_info")
                layer.insert(0 if layer.find("data") is None else 1, described)
            ET.SubElement(described, "attribute", name="precise", version="0")
    tree.write(file)


def _normalized(node: Any) -> Any:
    picture, weight, bias = (node.input_value(index) for index in range(3))
    attributes = node.get_attributes()
    groups, channels = attributes["num_groups"], node.get_output_partial_shape(0)[1].get_length()
    width = channels // groups

    def mean_of_groups(values: Any) -> Any:  # [rows, channels, 1, 1] to [rows, groups, 1, 1]
        grouped = _kept(ops.reshape(values, _integers(0, groups, width, 1), special_zero=True))
        return _kept(ops.reduce_mean(grouped, _integers(2), keep_dims=True))

    def of_channels(values: Any) -> Any:  # [rows, groups, width, 1] to [rows, channels, 1, 1]
        return _kept(ops.reshape(values, _integers(0, channels, 1, 1), special_zero=True))

    def tiled(values: Any) -> Any:  # [rows, groups, 1, 1] to [rows, channels, 1, 1]
        return of_channels(_kept(ops.tile(values, _integers(1, 1, width, 1))))

    # Factors of -1 are written out, because OpenVINO would merge a subtraction with other nodes and lose the marks.
    mean = mean_of_groups(ops.reduce_mean(picture, _integers(2, 3), keep_dims=True))
    upper, minus_upper = (_kept(ops.multiply(mean, _float(sign * _SPLIT))) for sign in (1, -1))
    minus_mean = _kept(ops.multiply(mean, _float(-1.0)))
    high = _kept(ops.add(upper, _kept(ops.add(minus_upper, mean))))
    minus_high = _kept(ops.add(minus_upper, _kept(ops.add(upper, minus_mean))))
    low, minus_low = _kept(ops.add(mean, minus_high)), _kept(ops.add(high, minus_mean))
    distances = ops.squared_difference(picture, tiled(high))
    squares = mean_of_groups(ops.reduce_mean(distances, _integers(2, 3), keep_dims=True))
    variance = _kept(ops.add(squares, _kept(ops.multiply(low, minus_low))))
    inverse = _kept(ops.power(_kept(ops.add(variance, _float(attributes["epsilon"]))), _float(-0.5)))
    weights, biases = (
        _kept(ops.reshape(part, _integers(1, groups, width, 1), special_zero=False)) for part in (weight, bias)
    )
    scale = _kept(ops.multiply(inverse, weights))
    shift = _kept(ops.add(biases, _kept(ops.multiply(minus_low, scale))))
    centred = ops.add(picture, tiled(minus_high))
    return ops.add(ops.multiply(centred, of_channels(scale)), of_channels(shift))


def _kept(node: Any) -> Any:
    node.set_friendly_name(_KEPT + node.get_name())
    return node


def _integers(*values: int) -> Any:
    return ops.constant(np.array(values, np.int64))


def _float(value: float) -> Any:
    return ops.constant(np.array(value, np.float32))
