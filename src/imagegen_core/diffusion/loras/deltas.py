"""What a LoRA adds to a layer's output, by each algorithm; the layer itself stays as it is.

Every change is additive. At strength ``s`` a change ``ΔW`` turns a layer's output ``y = W x + b`` into ``y + s ΔW x``.
So nothing is merged into the weights, and nothing has to be taken out again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from imagegen_core.diffusion.batch_invariance import conv2d, linear

_PLAIN = 2  # dimensions of a linear layer's weight

Factors = tuple[Tensor, ...]
"""The matrix itself; [out, rank] and [rank, in]; or [rank, out], [rank, in] and a core [rank, rank, height, width]."""


class Delta(ABC):
    """The change of one layer by one LoRA, at strength 1."""

    @abstractmethod
    def output(self, layer: Any, input: Tensor, output: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """What the change adds to `output`, which `layer` computes of `input`; of the output's shape."""

    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors it holds, as they count in memory."""


class Factored(Delta):
    """A change that small matrices make."""

    @abstractmethod
    def weight(self) -> Tensor:
        """``ΔW`` in float32, [out, ...] with the rest in one extent or several."""


@dataclass(frozen=True, slots=True)
class LowRank(Factored):
    """LoRA (https://arxiv.org/abs/2106.09685): ``ΔW = scale · up @ down``.

    Attributes:
        down: [rank, in], or [rank, in, height, width] for a convolution, whose stride and padding it takes.
        up: [out, rank], or [out, rank, 1, 1].
        scale: alpha over rank.
        bias: [out], added with the same scale; None for none.
    """

    down: Tensor
    up: Tensor
    scale: float
    bias: Tensor | None = None

    def output(self, layer: Any, input: Tensor, output: Tensor) -> Tensor:  # noqa: A002, ARG002, D102
        inner = _apply(layer, input, self.down)
        if self.up.ndim == _PLAIN:
            return linear(inner, self.up, self.bias) * self.scale
        return conv2d(inner, self.up, self.bias) * self.scale

    def weight(self) -> Tensor:  # noqa: D102
        return self.up.float().flatten(1) @ self.down.float().flatten(1) * self.scale

    def tensors(self) -> tuple[Tensor, ...]:  # noqa: D102
        return (self.down, self.up) if self.bias is None else (self.down, self.up, self.bias)


@dataclass(frozen=True, slots=True)
class Hadamard(Factored):
    """LoHa (https://arxiv.org/abs/2108.06098): ``ΔW = scale · first ∘ second``, each a product of small matrices.

    Attributes:
        first: Factors of [out, in].
        second: The same.
        shape: The shape of the layer's weight.
        scale: alpha over rank.
    """

    first: Factors
    second: Factors
    shape: tuple[int, ...]
    scale: float

    def output(self, layer: Any, input: Tensor, output: Tensor) -> Tensor:  # noqa: A002, ARG002, D102
        return _apply(layer, input, _hadamard(self.first, self.second).reshape(self.shape)) * self.scale

    def weight(self) -> Tensor:  # noqa: D102
        return _hadamard(_float(self.first), _float(self.second)) * self.scale

    def tensors(self) -> tuple[Tensor, ...]:  # noqa: D102
        return (*self.first, *self.second)


@dataclass(frozen=True, slots=True)
class Kronecker(Factored):
    """LoKr (https://arxiv.org/abs/2309.14859): ``ΔW = scale · first ⊗ second``, each whole or a product.

    Attributes:
        first: Factors of [a, b].
        second: Factors of [c, d] or [c, d, height, width]; the layer has a·c outputs and b·d inputs.
        shape: The shape of the layer's weight.
        scale: alpha over rank, or 1 where both are whole.
    """

    first: Factors
    second: Factors
    shape: tuple[int, ...]
    scale: float

    def output(self, layer: Any, input: Tensor, output: Tensor) -> Tensor:  # noqa: A002, ARG002, D102
        return _apply(layer, input, _kronecker(self.first, self.second).reshape(self.shape)) * self.scale

    def weight(self) -> Tensor:  # noqa: D102
        return _kronecker(_float(self.first), _float(self.second)) * self.scale

    def tensors(self) -> tuple[Tensor, ...]:  # noqa: D102
        return (*self.first, *self.second)


@dataclass(frozen=True, slots=True)
class Difference(Delta):
    """A change of a layer's parameters that the file holds as it is.

    Attributes:
        weight: Of the shape of the layer's weight; None for none.
        bias: Of the shape of its bias; None for none.
    """

    weight: Tensor | None
    bias: Tensor | None

    def output(self, layer: Any, input: Tensor, output: Tensor) -> Tensor:  # noqa: A002, D102
        if isinstance(layer, torch.nn.LayerNorm):
            return functional.layer_norm(input, layer.normalized_shape, self._norm_weight(layer), self.bias, layer.eps)
        if isinstance(layer, torch.nn.GroupNorm):
            return functional.group_norm(input, layer.num_groups, self._norm_weight(layer), self.bias, layer.eps)
        added = torch.zeros_like(output)
        if self.weight is not None and isinstance(layer, torch.nn.Embedding):
            added = functional.embedding(input, self.weight)
        elif self.weight is not None:
            added = _apply(layer, input, self.weight)
        return added if self.bias is None else added + _along_channels(self.bias, layer, output)

    def tensors(self) -> tuple[Tensor, ...]:  # noqa: D102
        return tuple(tensor for tensor in (self.weight, self.bias) if tensor is not None)

    def _norm_weight(self, layer: Any) -> Tensor:
        """Zeros where the weight does not change: without a weight, a norm would multiply by 1."""
        return torch.zeros_like(layer.weight) if self.weight is None else self.weight


@dataclass(frozen=True, slots=True)
class Decomposed(Delta):
    """DoRA (https://arxiv.org/abs/2402.09353): the changed weight ``W + ΔW``, each output (or input) scaled anew.

    ``W' = g ∘ (W + ΔW)`` with ``g = magnitude / ‖W + ΔW‖``. At strength s the weight is ``W + s (W' - W)``, as in A1111
    and ComfyUI.

    Attributes:
        inner: The change ``ΔW``.
        excess: g - 1, which keeps its digits in half precision: [out], or [in] where the file normalizes each input,
            as LyCORIS may.
        by_input: Which of the two it is.
    """

    inner: Factored
    excess: Tensor
    by_input: bool

    @classmethod
    def of(cls, inner: Factored, magnitude: Tensor, layer: Any, *, by_input: bool) -> Decomposed:
        """Measure the changed weight of `layer` against `magnitude`, [out] or [in] in float32."""
        changed = layer.weight.float() + inner.weight().reshape(layer.weight.shape)
        norm = (changed.transpose(0, 1) if by_input else changed).flatten(1).norm(dim=1)
        gain = torch.where(norm > 0, magnitude.to(norm) / norm, torch.ones_like(norm))
        return cls(inner, (gain - 1).to(layer.weight.dtype), by_input)

    def output(self, layer: Any, input: Tensor, output: Tensor) -> Tensor:  # noqa: A002, D102
        if self.by_input:
            scaled = input * _along_channels(self.excess, layer, input)
            inner = self.inner.output(layer, input, output)
            return _apply(layer, scaled, layer.weight) + self.inner.output(layer, scaled, output) + inner
        inner = self.inner.output(layer, input, output)
        without_bias = output if layer.bias is None else output - _along_channels(layer.bias, layer, output)
        return (without_bias + inner) * _along_channels(self.excess, layer, output) + inner

    def tensors(self) -> tuple[Tensor, ...]:  # noqa: D102
        return (*self.inner.tensors(), self.excess)


def _product(left: Tensor, right: Tensor | None = None, core: Tensor | None = None) -> Tensor:
    """The matrix that factors stand for: [out, in], or with a Tucker core [out, in, height, width]."""
    if right is None:
        return left
    if core is None:
        return left @ right
    return torch.einsum("abhw,ao,bi->oihw", core, left, right)


def _hadamard(first: Factors, second: Factors) -> Tensor:
    return _product(*first) * _product(*second)


def _kronecker(first: Factors, second: Factors) -> Tensor:
    left, right = _product(*first), _product(*second)
    return torch.kron(left.reshape(*left.shape, *(1,) * (right.ndim - left.ndim)), right.contiguous())


def _float(factors: Factors) -> Factors:
    return tuple(factor.float() for factor in factors)


def _apply(layer: Any, input: Tensor, weight: Tensor) -> Tensor:  # noqa: A002 - torch's name
    """What the layer would compute with another weight and no bias."""
    if isinstance(layer, torch.nn.Linear):
        return linear(input, weight, None)
    return conv2d(input, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def _along_channels(vector: Tensor, layer: Any, tensor: Tensor) -> Tensor:
    """A vector over the channels of a layer's input or output, in a shape that multiplies `tensor`."""
    return vector.reshape(-1, *(1,) * (tensor.ndim - 2)) if isinstance(layer, torch.nn.Conv2d) else vector
