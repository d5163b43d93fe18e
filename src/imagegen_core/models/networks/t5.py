"""A T5 encoder's config from its layers (https://arxiv.org/abs/1910.10683), whose names all files share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from imagegen_core.models.networks.source import Layers

_TABLES = ("shared.weight", "encoder.embed_tokens.weight")  # one tensor with two names; a file has either or both
_FIRST = "encoder.block.0.layer"
_BLOCK = re.compile(r"encoder\.block\.(\d+)\.")


def t5_config(layers: Layers, family: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a transformers ``T5EncoderModel`` with these layers; see `unet_config`.

    Raises:
        KeyError: A layer that every T5 encoder has is missing.
    """
    vocabulary, width = layers[next((name for name in _TABLES if name in layers), _TABLES[0])].shape
    buckets, heads = layers[f"{_FIRST}.0.SelfAttention.relative_attention_bias.weight"].shape
    return {
        **family,
        "vocab_size": vocabulary,
        "d_model": width,
        "d_ff": layers[f"{_FIRST}.1.DenseReluDense.wo.weight"].shape[1],
        "d_kv": layers[f"{_FIRST}.0.SelfAttention.q.weight"].shape[0] // heads,
        "num_heads": heads,
        "num_layers": 1 + max(int(match[1]) for name in layers if (match := _BLOCK.match(name))),
        "relative_attention_num_buckets": buckets,
    }
