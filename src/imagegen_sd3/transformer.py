"""The config of Stable Diffusion 3's transformer, from its layers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from imagegen_core.diffusion import Layers

_BLOCK = re.compile(r"transformer_blocks\.(\d+)\.")
_HEAD_WIDTH = 64  # of the checkpoints without normalized queries


def transformer_config(layers: Layers, family: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a diffusers ``SD3Transformer2DModel`` with these layers.

    Args:
        layers: The layers by diffusers' names.
        family: A config of the same family, for a transformer of any size.

    Raises:
        KeyError: A layer that every such transformer has is missing.
    """
    width, channels, patch, _ = layers["pos_embed.proj.weight"].shape
    norm = layers.get("transformer_blocks.0.attn.norm_q.weight")
    head_width = norm.shape[0] if norm else _HEAD_WIDTH
    blocks = sorted({int(match[1]) for name in layers if (match := _BLOCK.match(name))})
    return {
        **family,
        "patch_size": patch,
        "in_channels": channels,
        "out_channels": layers["proj_out.weight"].shape[0] // patch**2,
        "num_layers": len(blocks),
        "attention_head_dim": head_width,
        "num_attention_heads": width // head_width,
        "joint_attention_dim": layers["context_embedder.weight"].shape[1],
        "caption_projection_dim": layers["context_embedder.weight"].shape[0],
        "pooled_projection_dim": layers["time_text_embed.text_embedder.linear_1.weight"].shape[1],
        "pos_embed_max_size": math.isqrt(layers["pos_embed.pos_embed"].shape[1]),
        "dual_attention_layers": [
            block for block in blocks if f"transformer_blocks.{block}.attn2.to_q.weight" in layers
        ],
        "qk_norm": "rms_norm" if norm else None,
    }
