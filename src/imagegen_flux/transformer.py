"""The config of FLUX.1's transformer, from its layers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagegen_core import ModelLoadError
from imagegen_core.diffusion import Layers

_BLOCK = re.compile(r"((?:single_)?transformer_blocks)\.(\d+)\.")


def transformer_config(layers: Layers, family: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a diffusers ``FluxTransformer2DModel`` with these layers.

    Args:
        layers: The layers by diffusers' names.
        family: A config of the same family, for a transformer of any size.

    Raises:
        KeyError: A layer that every such transformer has is missing.
    """
    width, channels = layers["x_embedder.weight"].shape
    head_width = layers["transformer_blocks.0.attn.norm_q.weight"].shape[0]
    axes = family["axes_dims_rope"]
    blocks = {match[0]: match[1] for name in layers if (match := _BLOCK.match(name))}
    kinds = list(blocks.values())
    return {
        **family,
        "in_channels": channels,
        "num_layers": kinds.count("transformer_blocks"),
        "num_single_layers": kinds.count("single_transformer_blocks"),
        "attention_head_dim": head_width,
        "num_attention_heads": width // head_width,
        "axes_dims_rope": [axis * head_width // sum(axes) for axis in axes],
        "joint_attention_dim": layers["context_embedder.weight"].shape[1],
        "pooled_projection_dim": layers["time_text_embed.text_embedder.linear_1.weight"].shape[1],
        "guidance_embeds": "time_text_embed.guidance_embedder.linear_1.weight" in layers,
    }


def check_patches(path: Path, channels: int, expected: int) -> None:
    """Check that a transformer draws from a prompt alone.

    Args:
        path: Its file.
        channels: The number of channels that it takes.
        expected: The number of channels of a patch of latents.

    Raises:
        ModelLoadError: It also takes a picture, as FLUX.1 Fill, Depth and Canny do.
    """
    if channels != expected:
        raise ModelLoadError(
            f"{path} is a FLUX.1 model for editing: its transformer takes {channels} channels where patches of latents "
            f"have {expected}; such models are not drawn with yet, so name dev or schnell"
        )
