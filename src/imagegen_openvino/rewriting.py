"""Rewrite a network before its compilation, so that it computes the same with less work."""

from __future__ import annotations

from typing import Any

import torch
from openvino import opset13 as ops
from torch import Tensor

from imagegen_openvino.constants import constant_of, float_constant, redirect, replace, tensor_of


def upsamplings(model: Any) -> list[tuple[Any, Any]]:
    """Return the nodes that enlarge a picture by nearest neighbours for one 3x3 convolution, and this convolution."""
    found = ((node, _convolution(node)) for node in model.get_ops() if node.get_type_name() == "Interpolate")
    return [(node, convolution) for node, convolution in found if convolution is not None]


def rewrite_upsamplings(model: Any, *, quantized: bool) -> list[Tensor]:
    """Replace nearest neighbours and their convolution by a convolution of the small picture; the sides must double.

    Of the nine inputs of a 3x3 kernel in the doubled picture, several are the same pixel: 16 products do instead of 36
    (https://arxiv.org/abs/1609.05158). A transposed convolution computes them at once. OpenVINO has none in int8 on
    every CPU, so a network to quantize gets four convolutions.

    Returns:
        The kernels. They must outlive the model, and each network that is compiled from it.
    """
    kernels = []
    for node, convolution in upsamplings(model):
        constant: Any = constant_of(convolution.input_value(1))
        name, picture = constant.get_friendly_name(), node.input_value(0)
        parts = _kernels(tensor_of(constant).float())
        if quantized:
            doubled = _four_convolutions(picture, parts, name)
        else:
            parts = [_transposed(parts)]
            doubled = ops.convolution_backprop_data(
                picture, float_constant(parts[0], name), [2, 2], None, [1, 1], [1, 1], [1, 1]
            )
        kernels += parts
        doubled.set_friendly_name(convolution.get_friendly_name())
        replace(convolution, doubled)
    return kernels


def split_gates(model: Any) -> list[Tensor]:
    """Compute the two halves of a gated layer by two products, so that no copy divides their result.

    Returns:
        The halves. They must outlive the model, and each network that is compiled from it.
    """
    halves: list[Tensor] = []
    for node in model.get_ops():
        if node.get_type_name() != "VariadicSplit" or node.get_output_size() != 2:  # noqa: PLR2004
            continue
        total = node.input_value(0).get_node()
        if total.get_type_name() != "Add":
            continue
        product, bias = total.input_value(0).get_node(), constant_of(total.input_value(1))
        if product.get_type_name() != "MatMul" or bias is None or not product.get_attributes()["transpose_b"]:
            continue
        weight, tokens = constant_of(product.input_value(1)), product.input_value(0)
        if weight is None:
            continue
        transposed = product.get_attributes()["transpose_a"]
        weights, biases = tensor_of(weight).chunk(2), tensor_of(bias).chunk(2, -1)
        halves += [*weights, *biases]
        for index, (rows, shifts) in enumerate(zip(weights, biases, strict=True)):
            half = ops.matmul(tokens, float_constant(rows, weight.get_friendly_name()), transposed, transpose_b=True)
            redirect(node.output(index), ops.add(half, float_constant(shifts, bias.get_friendly_name())))
    return halves


def _convolution(node: Any) -> Any | None:
    """Return the 3x3 convolution that alone reads a node's output; None if another node reads it."""
    readers = [reader.get_node() for reader in node.output(0).get_target_inputs()]
    if [reader.get_type_name() for reader in readers] != ["Convolution"]:
        return None
    attributes = readers[0].get_attributes()
    is_plain = (attributes["strides"], attributes["pads_begin"], attributes["dilations"]) == ([1, 1], [1, 1], [1, 1])
    return readers[0] if is_plain and list(readers[0].get_input_shape(1))[2:] == [3, 3] else None


def _kernels(weight: Tensor) -> list[Tensor]:
    """Sum a kernel [outputs, inputs, 3, 3] to the four kernels [outputs, inputs, 2, 2] of a pixel's outputs."""
    sums = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
    return [torch.einsum("ai,bj,ocij->ocab", line, column, weight).contiguous() for line in sums for column in sums]


def _transposed(kernels: list[Tensor]) -> Tensor:
    """Join four kernels to that of a transposed convolution with stride 2, [inputs, outputs, 4, 4]."""
    outputs, inputs = kernels[0].shape[:2]
    joined = torch.empty(inputs, outputs, 4, 4)
    for index, kernel in enumerate(kernels):
        line, column = divmod(index, 2)
        joined[:, :, 1 - line :: 2, 1 - column :: 2] = kernel.transpose(0, 1).flip(2, 3)
    return joined


def _four_convolutions(picture: Any, kernels: list[Tensor], name: str) -> Any:
    parts = []
    for index, kernel in enumerate(kernels):
        line, column = divmod(index, 2)
        before, after = [1 - line, 1 - column], [line, column]
        parts.append(ops.convolution(picture, float_constant(kernel, name), [1, 1], before, after, [1, 1]))
    return ops.depth_to_space(ops.concat(parts, 1), "blocks_first", 2)
