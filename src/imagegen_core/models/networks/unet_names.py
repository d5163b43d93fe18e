"""A UNet's layers by diffusers' names, from LDM's or diffusers' own.

LDM numbers its blocks consecutively. A downsampler is an input block of its own, and an upsampler is the last part of
an output block (https://github.com/CompVis/latent-diffusion, ``openaimodel.py``).
"""

from __future__ import annotations

import re

from imagegen_core.models.networks.source import Layers, Source, renamed

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "time_embed.cond_proj": "time_embedding.cond_proj",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
}
_BLOCK = re.compile(r"(input_blocks|output_blocks)\.(\d+)\.")


def unet_layers(layers: Layers) -> dict[str, Source]:
    """Return the layers by diffusers' names; layers unknown to LDM's UNet keep their own."""
    if any(name.startswith("down_blocks.") for name in layers):
        return dict(layers)
    places = {**_ENDS, **_input_places(layers), **_output_places(layers)}
    return renamed(layers, lambda name: _diffusers_name(name, places))


def _diffusers_name(name: str, places: dict[str, str]) -> str:
    head = next((head for head in _heads(name) if head in places), None)
    if head is None:
        return name
    place, rest = places[head], name[len(head) + 1 :]
    if ".resnets." in place:
        part = next((part for part in _heads(rest) if part in _RESNET), None)
        rest = f"{_RESNET[part]}{rest[len(part) :]}" if part else rest
    return f"{place}.{rest}"


def _heads(name: str) -> list[str]:
    """Return a tensor's parent modules, the innermost first."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]


def _blocks(layers: Layers, side: str) -> int:
    numbers = [int(match[2]) for name in layers if (match := _BLOCK.match(name)) and match[1] == side]
    return max(numbers, default=-1) + 1


def _input_places(layers: Layers) -> dict[str, str]:
    places, level, index = {}, 0, 0
    for block in range(1, _blocks(layers, "input_blocks")):
        head = f"input_blocks.{block}"
        if f"{head}.0.op.weight" in layers:
            places[f"{head}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
            level, index = level + 1, 0
        else:
            places[f"{head}.0"] = f"down_blocks.{level}.resnets.{index}"
            places[f"{head}.1"] = f"down_blocks.{level}.attentions.{index}"
            index += 1
    return places


def _output_places(layers: Layers) -> dict[str, str]:
    places, level, index = {}, 0, 0
    for block in range(_blocks(layers, "output_blocks")):
        head = f"output_blocks.{block}"
        places[f"{head}.0"] = f"up_blocks.{level}.resnets.{index}"
        upsampler = next((part for part in (1, 2) if f"{head}.{part}.conv.weight" in layers), None)
        if upsampler != 1:
            places[f"{head}.1"] = f"up_blocks.{level}.attentions.{index}"
        if upsampler is None:
            index += 1
        else:
            places[f"{head}.{upsampler}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
            level, index = level + 1, 0
    return places
