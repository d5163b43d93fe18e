"""The output of each LoRA algorithm, added to a layer's output; the layer itself does not change.

Every change is additive. At strength ``s``, a change ``ΔW`` turns a layer's output ``y = W x + b`` into ``y + s ΔW x``.
So nothing is merged into the weights, and nothing has to be removed later.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from imagegen_core.diffusion.batch_invariance import conv2d, linear

_PLAIN = 2  # the dimensions of a linear layer's weight

Factors = tuple[Tensor, ...]
"""A single matrix; [out, rank] and [rank, in]; or [rank, out], [rank, in] and a core [rank, rank, height, width]."""


class Delta(ABC):
    """The change of one layer by one LoRA, at strength 1."""

    @abstractmethod
    def output(self, layer: Any, input: Tensor, output: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Return the change of `output`, which `layer` computed from `input`; both have the same shape."""

    @abstractmethod
    def parameters(self, layer: Any) -> Mapping[str, Tensor]:
        """Return the same change as changes of the layer's parameters, in float32, by the parameters' names."""

    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """Return the change's tensors, to count their memory."""


class Factored(Delta):
    """A change as a product of small matrices."""

    @abstractmethod
    def weight(self) -> Tensor:
        """Return ``ΔW`` in float32, [out, ...] with one or several further dimensions."""

    def parameters(self, layer: Any) -> Mapping[str, Tensor]:  # noqa: D102
        return {"weight": self.weight().reshape(layer.weight.shape)}


@dataclass(frozen=True, slots=True)
class LowRank(Factored):
    """LoRA (https://arxiv.org/abs/2106.09685): ``ΔW = scale · up @ down``.

    Attributes:
        down: [rank, in], or [rank, in, height, width] for a convolution, with the layer's stride and padding.
        up: [out, rank], or [out, rank, 1, 1].
        scale: alpha over rank.
        bias: [out], multiplied by the same scale; None for no bias.
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

    def parameters(self, layer: Any) -> Mapping[str, Tensor]:  # noqa: D102
        weight = Factored.parameters(self, layer)
        return weight if self.bias is None else {**weight, "bias": self.bias.float() * self.scale}

    def tensors(self) -> tuple[Tensor, ...]:  # noqa: D102
        return (self.down, self.up) if self.bias is None else (self.down, self.up, self.bias)


@dataclass(frozen=True, slots=True)
class Hadamard(Factored):
    """LoHa (https://arxiv.org/abs/2108.06098): ``ΔW = scale · first ∘ second``, each a product of small matrices.

    Attributes:
        first: Factors of [out, in].
        second: Factors of [out, in].
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
    """LoKr (https://arxiv.org/abs/2309.14859): ``ΔW = scale · first ⊗ second``, each a matrix or a product.

    Attributes:
        first: Factors of [a, b].
        second: Factors of [c, d] or [c, d, height, width]; the layer has a·c outputs and b·d inputs.
        shape: The shape of the layer's weight.
        scale: alpha over rank, or 1 if both are single matrices.
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
    """The direct difference of a layer's parameters, as stored in the file.

    Attributes:
        weight: The difference of the layer's weight, in its shape; None for no difference.
        bias: The difference of the layer's bias, in its shape; None for no difference.
    """

    weight: Tensor | None
    bias: Tensor | None

    def output(self, layer: Any, input: Tensor, output: Tensor) -> Tensor:  # noqa: A002, D102
        if isinstance(layer, torch.nn.LayerNorm):
            return functional.layer_norm(
                input, layer.normalized_shape, self._norm_weight(layer, input), self.bias, layer.eps
            )
        if isinstance(layer, torch.nn.GroupNorm):
            return functional.group_norm(input, layer.num_groups, self._norm_weight(layer, input), self.bias, layer.eps)
        added = torch.zeros_like(output)
        if self.weight is not None and isinstance(layer, torch.nn.Embedding):
            added = functional.embedding(input, self.weight)
        elif self.weight is not None:
            added = _apply(layer, input, self.weight)
        return added if self.bias is None else added + _along_channels(self.bias, layer, output)

    def parameters(self, layer: Any) -> Mapping[str, Tensor]:  # noqa: ARG002, D102
        changed = {"weight": self.weight, "bias": self.bias}
        return {name: tensor.float() for name, tensor in changed.items() if tensor is not None}

    def tensors(self) -> tuple[Tensor, ...]:  # noqa: D102
        return tuple(tensor for tensor in (self.weight, self.bias) if tensor is not None)

    def _norm_weight(self, layer: Any, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Return zeros if the weight does not change: without a weight, a norm would multiply by 1."""
        return torch.zeros_like(layer.weight, device=input.device) if self.weight is None else self.weight


@dataclass(frozen=True, slots=True)
class Decomposed(Delta):
    """DoRA (https://arxiv.org/abs/2402.09353): the changed weight ``W + ΔW``, with each output or input scaled again.

    ``W' = g ∘ (W + ΔW)`` with ``g = magnitude / ‖W + ΔW‖``. At strength s the weight is ``W + s (W' - W)``, as in A1111
    and ComfyUI.

    Attributes:
        inner: The change ``ΔW``.
        excess: g - 1, to keep its digits in half precision: [out], or [in] if the file normalizes each input, as
            LyCORIS may.
        by_input: Whether `excess` is [in].
    """

    inner: Factored
    excess: Tensor
    by_input: bool

    @classmethod
    def of(cls, inner: Factored, magnitude: Tensor, layer: Any, *, by_input: bool) -> Decomposed:
        """Compare the changed weight of `layer` with `magnitude`, [out] or [in] in float32."""
        changed = layer.weight.to(magnitude) + inner.weight().reshape(layer.weight.shape)
        norm = (changed.transpose(0, 1) if by_input else changed).flatten(1).norm(dim=1)
        gain = torch.where(norm > 0, magnitude / norm, torch.ones_like(norm))
        return cls(inner, (gain - 1).to(layer.weight.dtype), by_input)

    def output(self, layer: Any, input: Tensor, output: Tensor) -> Tensor:  # noqa: A002, D102
        if self.by_input:
            scaled = input * _along_channels(self.excess, layer, input)
            inner = self.inner.output(layer, input, output)
            return (
                _apply(layer, scaled, layer.weight.to(input.device)) + self.inner.output(layer, scaled, output) + inner
            )
        inner = self.inner.output(layer, input, output)
        bias = None if layer.bias is None else layer.bias.to(output.device)  # a streamed layer has left already
        without_bias = output if bias is None else output - _along_channels(bias, layer, output)
        return (without_bias + inner) * _along_channels(self.excess, layer, output) + inner

    def parameters(self, layer: Any) -> Mapping[str, Tensor]:  # noqa: D102
        changes, excess = dict(self.inner.parameters(layer)), self.excess.float()
        shape = (1, -1) if self.by_input else (-1, 1)
        scaled = excess.reshape(*shape, *(1,) * (layer.weight.ndim - _PLAIN))
        changes["weight"] = (layer.weight.float() + changes["weight"]) * scaled + changes["weight"]
        if "bias" in changes:
            changes["bias"] = changes["bias"] * (2 if self.by_input else 1 + excess)
        return changes

    def tensors(self) -> tuple[Tensor, ...]:  # noqa: D102
        return (*self.inner.tensors(), self.excess)


def _product(left: Tensor, right: Tensor | None = None, core: Tensor | None = None) -> Tensor:
    """Return the product of factors: [out, in], or with a Tucker core [out, in, height, width]."""
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
    """Compute the layer with another weight and no bias."""
    if isinstance(layer, torch.nn.Linear):
        return linear(input, weight, None)
    return conv2d(input, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def _along_channels(vector: Tensor, layer: Any, tensor: Tensor) -> Tensor:
    """Reshape a vector over the channels of a layer's input or output, so that it multiplies `tensor`."""
    return vector.reshape(-1, *(1,) * (tensor.ndim - 2)) if isinstance(layer, torch.nn.Conv2d) else vector
