"""An autoencoder's layers by diffusers' names, from LDM's or diffusers' own, and its config from their shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from imagegen_core.models.networks.source import Layers, Source, renamed

_LDM = (
    (re.compile(r"\.mid\.block_([12])\."), lambda match: f".mid_block.resnets.{int(match[1]) - 1}."),
    (re.compile(r"\.mid\.attn_1\."), lambda _: ".mid_block.attentions.0."),
    (re.compile(r"\.down\.(\d+)\.block\.(\d+)\."), lambda match: f".down_blocks.{match[1]}.resnets.{match[2]}."),
    (re.compile(r"\.down\.(\d+)\.downsample\."), lambda match: f".down_blocks.{match[1]}.downsamplers.0."),
    (re.compile(r"\.norm_out\."), lambda _: ".conv_norm_out."),
    (re.compile(r"\.nin_shortcut\."), lambda _: ".conv_shortcut."),
)
_LDM_UP = re.compile(r"\.up\.(\d+)\.(?:block\.(\d+)|upsample)\.")
_ATTENTION = re.compile(r"(\.mid_block\.attentions\.0\.)(.+)\.(weight|bias)")
# LDM's names, the names that EveryDream mixes with them, and diffusers' names before 0.17.
_ATTENTION_PARTS = {
    "norm": "group_norm",
    **dict.fromkeys(("q", "query"), "to_q"),
    **dict.fromkeys(("k", "key"), "to_k"),
    **dict.fromkeys(("v", "value"), "to_v"),
    **dict.fromkeys(("proj_out", "proj_attn", "to_out"), "to_out.0"),
}


def vae_layers(layers: Layers) -> dict[str, Source]:
    """Return the layers by diffusers' names; layers unknown to LDM's autoencoder keep their own."""
    last = max((int(match[1]) for name in layers if (match := _LDM_UP.search(name))), default=0)
    return renamed(layers, lambda name: _diffusers_name(name, last))


def vae_config(layers: Layers, family: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a diffusers ``AutoencoderKL`` with these layers; see `unet_config`.

    Raises:
        KeyError: A layer that every autoencoder has is missing.
    """
    blocks = _count(layers, r"decoder\.up_blocks\.(\d+)\.")
    channels = [layers[f"decoder.up_blocks.{block}.resnets.0.conv1.weight"].shape[0] for block in range(blocks)]
    return {
        **family,
        "block_out_channels": channels[::-1],
        "down_block_types": ["DownEncoderBlock2D"] * blocks,
        "up_block_types": ["UpDecoderBlock2D"] * blocks,
        "layers_per_block": _count(layers, r"decoder\.up_blocks\.0\.resnets\.(\d+)\.") - 1,
        "latent_channels": layers["decoder.conv_in.weight"].shape[1],
        "out_channels": layers["decoder.conv_out.weight"].shape[0],
    }


def _diffusers_name(name: str, last: int) -> str:
    for pattern, new in _LDM:
        name = pattern.sub(new, name)
    name = _LDM_UP.sub(lambda match: _up(last - int(match[1]), match[2]), name)
    return _ATTENTION.sub(lambda match: f"{match[1]}{_ATTENTION_PARTS.get(match[2], match[2])}.{match[3]}", name)


def _up(block: int, resnet: str | None) -> str:
    """Return the diffusers name of a decoder block. LDM counts these blocks from the picture's side."""
    return f".up_blocks.{block}." + (f"resnets.{resnet}." if resnet else "upsamplers.0.")


def _count(layers: Layers, pattern: str) -> int:
    return max((int(match[1]) for name in layers if (match := re.match(pattern, name))), default=-1) + 1
