"""Attention on a CPU in bfloat16: two matrix products of oneDNN, with the exponential inside the first.

torch's fused attention spends more time on its exponentials than on its products. oneDNN can apply a sigmoid to a
product before it is rounded, but no exponential. Far below zero, both are equal: ``sigmoid(x) = exp(x) / (1 + exp(x))``
differs from ``exp(x)`` by the factor ``1 + exp(x)``. So each query's scores are shifted to at most -8, where the
difference is below a tenth of bfloat16's rounding. The shift cancels out in the softmax:

    softmax(s) = exp(s - c) / sum(exp(s - c))    for any c

The shift follows from the Cauchy-Schwarz bound ``s <= q m + |q| |k - m|`` with the keys' mean m. It is one more channel
of the product. The sum is one more channel of the second product, with values of 1.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_MARGIN = 8.0  # exp(-8) is 0.0003; bfloat16 rounds by up to 0.004
_LARGEST_BOUND = 36.0  # exp(-2 * 36 - 8) is still a normal number in bfloat16
_LARGEST_SHIFT = 256.0  # bfloat16 rounds smaller numbers by at most 0.5
_ROWS = 512  # queries at a time: their weights of 4096 keys take 4 MB and stay in the cache
_FEWEST = 2**20  # scores of a head; below, torch's own attention is as fast
_STEP = 8  # channels are padded to multiples of this number


def is_available() -> bool:
    """Return whether torch has oneDNN's fused products for an x86 CPU."""
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    has_products = has_onednn and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return has_products and platform.machine() in ("x86_64", "AMD64")


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute softmax attention without a mask.

    Each row and head whose scores may be too large for the shift, and small pictures, are left to torch's attention.

    Args:
        query: [rows, heads, tokens, channels].
        key: [rows, heads, keys, channels].
        value: [rows, heads, keys, channels].

    Returns:
        [rows, tokens, heads, channels].
    """
    if query.dtype != torch.bfloat16 or query.shape[2] * key.shape[2] < _FEWEST:
        return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
    return torch.stack([_row(*parts) for parts in zip(query, key, value, strict=True)])


def _row(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute the attention of one row [heads, tokens, channels] to [tokens, heads, channels]."""
    heads, tokens, channels = query.shape
    scaled = query * channels**-0.5
    mean = key.mean(1, keepdim=True, dtype=torch.float32)
    bounds = _norm(scaled) * _norm(key - mean).amax(1, keepdim=True)
    shifts = -_MARGIN - bounds - (scaled * mean).sum(-1)
    fits = ((bounds <= _LARGEST_BOUND) & (shifts.abs() <= _LARGEST_SHIFT)).all(1).tolist()
    queries = _with_channel(scaled, shifts)
    keys = _with_channel(key, torch.ones_like(key[..., 0]))
    values = _with_channel(value, torch.ones_like(value[..., 0])).transpose(1, 2).contiguous()
    output = query.new_empty(tokens, heads, channels)
    for head in range(heads):
        if fits[head]:
            _head(queries[head], keys[head], values[head], output[:, head])
        else:
            single = query[head, None], key[head, None], value[head, None]
            output[:, head] = functional.scaled_dot_product_attention(*single)[0]
    return output


def _head(query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> None:
    product = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001 - torch has no public name for it
    pack = torch.ops.mkldnn._reorder_linear_weight  # noqa: SLF001
    channels = output.shape[-1]
    packed_key, packed_value = pack(key, _ROWS), pack(value, _ROWS)
    for part, into in zip(torch.split(query, _ROWS), torch.split(output, _ROWS), strict=True):
        weights = product(part, packed_key, None, "sigmoid", [], "")
        sums = product(weights, packed_value, None, "none", [], "")
        torch.div(sums[:, :channels], sums[:, channels : channels + 1], out=into)


def _norm(vectors: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(vectors, dim=-1, dtype=torch.float32)
    return norm


def _with_channel(tokens: Tensor, channel: Tensor) -> Tensor:
    """Append a channel, and zeros up to the next multiple of `_STEP` channels."""
    padding = -(tokens.shape[-1] + 1) % _STEP
    return functional.pad(torch.cat([tokens, channel[..., None].to(tokens.dtype)], -1), (0, padding))


class ExponentialAttention:
    """An attention processor of diffusers for `attention`; other cases are left to another processor."""

    def __init__(self, other: Any) -> None:
        """Keep the processor for other cases: masks and norms of queries."""
        self._other = other

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **more: Any,
    ) -> Tensor:
        """See diffusers' ``AttnProcessor2_0``."""
        if attention_mask is not None or more or not _is_plain(attn):
            return self._other(attn, hidden_states, encoder_hidden_states, attention_mask, temb, **more)  # type: ignore[no-any-return]
        tokens = hidden_states
        if hidden_states.ndim == 4:  # noqa: PLR2004 - a VAE's feature maps [rows, channels, height, width]
            tokens = hidden_states.flatten(2).transpose(1, 2)
        normed = tokens if attn.group_norm is None else attn.group_norm(tokens.transpose(1, 2)).transpose(1, 2)
        source = normed if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            part.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for part in (attn.to_q(normed), attn.to_k(source), attn.to_v(source))
        )
        output: Tensor = attn.to_out[0](attention(query, key, value).flatten(2))
        if hidden_states.ndim == 4:  # noqa: PLR2004
            output = output.transpose(1, 2).reshape(hidden_states.shape)
        return output + hidden_states if attn.residual_connection else output


def has_exponential_attention(layer: torch.nn.Module) -> bool:
    """Return whether a layer's attention is an `ExponentialAttention`."""
    return isinstance(getattr(layer, "processor", None), ExponentialAttention)


def _is_plain(attn: Any) -> bool:
    return (
        attn.spatial_norm is None
        and not attn.norm_cross
        and attn.norm_q is None
        and attn.norm_k is None
        and attn.rescale_output_factor == 1
    )
