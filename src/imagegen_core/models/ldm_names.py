"""Translate diffusers' names of a UNet's layers to LDM's names.

LDM (https://github.com/CompVis/latent-diffusion) numbers its blocks consecutively: each layer of a block is an input
block of its own, and so is each downsampler. diffusers numbers the blocks, and the layers in each block.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_FIXED = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.attentions.0": "middle_block.1",
    **{f"mid_block.resnets.0.{part}": f"middle_block.0.{ldm}" for part, ldm in _RESNET.items()},
    **{f"mid_block.resnets.1.{part}": f"middle_block.2.{ldm}" for part, ldm in _RESNET.items()},
}
_PART = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.")


@dataclass
class _Block:
    """A down or up block: its number of layers, and whether it has attention and a sampler at its end."""

    layers: int = 0
    attends: bool = False
    has_sampler: bool = False


def to_ldm(names: Iterable[str]) -> dict[str, str]:
    """Return LDM's names for a UNet's layers or parameters.

    Args:
        names: All names of the UNet, as in diffusers' ``state_dict``.

    Returns:
        LDM's name by diffusers' name, without names of unknown layers.
    """
    names = list(names)
    return _renamed(names, dict(_pairs(_blocks(names, "down"), _blocks(names, "up"))))


def _pairs(down: list[_Block], up: list[_Block]) -> Iterator[tuple[str, str]]:
    """Yield the beginnings of names: diffusers' and LDM's."""
    yield from _FIXED.items()
    for side, numbered, blocks in (("down", "input_blocks", down), ("up", "output_blocks", up)):
        position = 1 if side == "down" else 0
        for number, block in enumerate(blocks):
            for layer in range(block.layers):
                for part, ldm in _RESNET.items():
                    yield f"{side}_blocks.{number}.resnets.{layer}.{part}", f"{numbered}.{position}.0.{ldm}"
                yield f"{side}_blocks.{number}.attentions.{layer}", f"{numbered}.{position}.1"
                position += 1
            if block.has_sampler and side == "down":
                yield f"down_blocks.{number}.downsamplers.0.conv", f"input_blocks.{position}.0.op"
                position += 1
            elif block.has_sampler:
                place = f"output_blocks.{position - 1}.{1 + block.attends}"
                yield f"up_blocks.{number}.upsamplers.0.conv", f"{place}.conv"


def _blocks(names: Iterable[str], side: str) -> list[_Block]:
    blocks: dict[int, _Block] = {}
    for name in names:
        if (part := _PART.match(name)) and part[1] == side:
            block = blocks.setdefault(int(part[2]), _Block())
            if part[3] == "resnets":
                block.layers = max(block.layers, int(part[4]) + 1)
            block.attends |= part[3] == "attentions"
            block.has_sampler |= part[3].endswith("samplers")
    return [blocks[number] for number in sorted(blocks)]


def _renamed(names: Iterable[str], beginnings: Mapping[str, str]) -> dict[str, str]:
    renamed = {}
    for name in names:
        head = name
        while head and head not in beginnings:
            head = head.rpartition(".")[0]
        if head:
            renamed[name] = beginnings[head] + name[len(head) :]
    return renamed
