"""Derive a diffusers ``UNet2DConditionModel``'s config from the names and shapes of its layers.

A config of the family supplies the values that shapes do not show. An example is the number of attention heads: some
families have eight at every width, others have one per 64 channels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from imagegen_core.models.networks.source import Layers

_RESNET = re.compile(r"(down|up)_blocks\.(\d+)\.resnets\.(\d+)\.")
_TRANSFORMER = re.compile(r"(?:(down|up)_blocks\.(\d+)|(mid)_block)\.attentions\.(\d+)\.transformer_blocks\.(\d+)\.")
_MATRIX = 2  # the dimensions of a linear layer's weight

Depths = list[list[int]]
"""For each block and each of its resnets: the number of transformer layers after it."""


def unet_config(layers: Layers, family: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a UNet with these layers.

    Some UNets fit no config, for example with attention after only some of a block's resnets. They show when the
    network is built: its layers then differ.

    Args:
        layers: The layers by diffusers' names.
        family: A config of the same family, for a UNet of any size.

    Raises:
        KeyError: A layer that every UNet has is missing.
    """
    depths = _depths(layers)
    down, up = depths["down"], depths["up"]
    channels = [layers[f"down_blocks.{block}.resnets.0.conv1.weight"].shape[0] for block in range(len(down))]
    config = {
        **family,
        "in_channels": layers["conv_in.weight"].shape[1],
        "out_channels": layers["conv_out.weight"].shape[0],
        "block_out_channels": channels,
        "layers_per_block": _merged([len(block) for block in down]),
        "down_block_types": ["CrossAttnDownBlock2D" if any(block) else "DownBlock2D" for block in down],
        "up_block_types": ["CrossAttnUpBlock2D" if any(block) else "UpBlock2D" for block in up],
        "attention_head_dim": _heads(channels, family),
        **_middle(layers),
        **_transformers(down, up, depths["mid"][0][0] if depths["mid"] else 0),
    }
    if width := _find(layers, "attn2.to_k.weight"):
        config["cross_attention_dim"] = width[1]
    if projection := _find(layers, "proj_in.weight"):
        config["use_linear_projection"] = len(projection) == _MATRIX
    if added := layers.get("add_embedding.linear_1.weight"):
        config["projection_class_embeddings_input_dim"] = added.shape[1]
    guidance = layers.get("time_embedding.cond_proj.weight")
    config["time_cond_proj_dim"] = guidance.shape[1] if guidance else None
    return config


def _depths(layers: Layers) -> dict[str, Depths]:
    counts: dict[str, dict[int, dict[int, int]]] = {"down": {}, "up": {}, "mid": {}}
    for name in layers:
        if match := _RESNET.match(name):
            counts[match[1]].setdefault(int(match[2]), {}).setdefault(int(match[3]), 0)
        elif match := _TRANSFORMER.match(name):
            block = counts[match[1] or match[3]].setdefault(int(match[2] or 0), {})
            block[int(match[4])] = max(block.get(int(match[4]), 0), int(match[5]) + 1)
    return {
        side: [[depth for _, depth in sorted(block.items())] for _, block in sorted(blocks.items())]
        for side, blocks in counts.items()
    }


def _middle(layers: Layers) -> dict[str, str | None]:
    kind = "UNetMidBlock2DCrossAttn" if "mid_block.attentions.0.norm.weight" in layers else "UNetMidBlock2D"
    return {"mid_block_type": kind if "mid_block.resnets.0.conv1.weight" in layers else None}


def _transformers(down: Depths, up: Depths, middle: int) -> dict[str, Any]:
    """Return the transformer layers of each down block, and of each up block unless these mirror them."""
    below: list[Any] = [_merged(block) if any(block) else 1 for block in down]
    if middle and not any(down[-1]):
        below[-1] = middle  # the mid block uses the last entry
    mirrored = below[::-1]
    above: list[Any] = [_merged(block) if any(block) else mirrored[index] for index, block in enumerate(up)]
    is_mirrored = above == mirrored and not any(isinstance(depth, list) for depth in below)
    return {
        "transformer_layers_per_block": below,
        "reverse_transformer_layers_per_block": None if is_mirrored else above,
    }


def _heads(channels: Sequence[int], family: Mapping[str, Any]) -> Any:
    """Return the number of heads, diffusers' ``attention_head_dim``: one for all widths, or one for each."""
    heads = family.get("attention_head_dim", 8)
    if isinstance(heads, int) or list(family["block_out_channels"]) == list(channels):
        return heads
    per_head = family["block_out_channels"][0] // heads[0]
    return [max(1, width // per_head) for width in channels]


def _find(layers: Layers, ending: str) -> tuple[int, ...] | None:
    return next((source.shape for name, source in layers.items() if name.endswith(ending)), None)


def _merged(counts: Sequence[int]) -> int | list[int]:
    return counts[0] if len(set(counts)) == 1 else list(counts)
