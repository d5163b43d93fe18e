"""A tiny autoencoder's layers by diffusers' names, and the config of its ``AutoencoderTiny`` from their shapes.

TAESD and its kin are two chains of numbered layers: https://github.com/madebyollin/taesd. The original decoder begins
with a clamp, a layer without tensors, which diffusers does not number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from imagegen_core.models.networks.source import Layers

Described = TypeVar("Described")
Half = Literal["decoder", "encoder"]

SCALE, SHIFT = "vae_scale", "vae_shift"
"""The numbers in ComfyUI's files of both halves: a decoder takes (latents - shift) * scale of a plain VAE's latents."""

_NUMBERED = re.compile(r"(\d+)\.(.+)")
# The layouts of files: the beginnings of the decoder's and the encoder's names, and the number of the first layer.
_LAYOUTS: Mapping[str, Mapping[Half, tuple[str, int]]] = {
    "diffusers": {"decoder": ("decoder.layers.", 0), "encoder": ("encoder.layers.", 0)},
    "comfyui": {"decoder": ("taesd_decoder.", 1), "encoder": ("taesd_encoder.", 0)},
    "taesd": {"decoder": ("decoder.", 1), "encoder": ("encoder.", 0)},
    "taesd-half": {"decoder": ("", 1), "encoder": ("", 0)},
}
# The layers after the first convolution, by their distance: a block follows, in the decoder after an activation.
_BLOCK = {"decoder": 2, "encoder": 1}
_CONVOLUTION = 4  # the dimensions of a convolution's weight


def tiny_vae_halves(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, tuple[Half, ...]] | None:
    """Return the layout of a tiny autoencoder's file and the halves that it holds; None for another file.

    Args:
        shapes: The shapes of the file's tensors by their names.
    """
    for layout, halves in _LAYOUTS.items():
        held = tuple(half for half, (start, first) in halves.items() if _holds(shapes, half, start, first))
        if held:
            return layout, held
    return None


def tiny_vae_layers(tensors: Mapping[str, Described], layout: str) -> dict[str, Described]:
    """Return the tensors by diffusers' names; unknown tensors keep their own.

    Args:
        tensors: The tensors of a file by their names.
        layout: The file's layout; see `tiny_vae_halves`.
    """
    halves = _LAYOUTS[layout]
    if layout == "taesd-half":  # the halves have the same names, and such a file holds one of them
        half: Half = "encoder" if "0.weight" in tensors else "decoder"
        halves = {half: halves[half]}
    return {_diffusers_name(name, halves): tensor for name, tensor in tensors.items() if name not in (SCALE, SHIFT)}


def tiny_vae_config(layers: Layers) -> dict[str, Any]:
    """Return the config of a diffusers ``AutoencoderTiny`` with these layers; a missing half has the usual config.

    Raises:
        KeyError: The decoder's or the encoder's first layer is missing.
    """
    config: dict[str, Any] = {}
    for half in ("decoder", "encoder"):
        start = f"{half}.layers."
        if not any(name.startswith(start) for name in layers):
            continue
        first = layers[f"{start}0.weight"].shape
        channels, blocks = _stages(layers, start)
        config |= {f"{half}_block_out_channels": channels, f"num_{half}_blocks": blocks}
        if half == "decoder":
            config["latent_channels"] = first[1]
    return config


def _holds(shapes: Mapping[str, tuple[int, ...]], half: Half, start: str, first: int) -> bool:
    block = f"{start}{first + _BLOCK[half]}.conv."
    is_chain = len(shapes.get(f"{start}{first}.weight", ())) == _CONVOLUTION
    return is_chain and all(f"{block}{layer}.weight" in shapes for layer in (0, 2, 4))


def _diffusers_name(name: str, halves: Mapping[Half, tuple[str, int]]) -> str:
    for half, (start, first) in halves.items():
        if name.startswith(start) and (match := _NUMBERED.fullmatch(name.removeprefix(start))):
            return f"{half}.layers.{int(match[1]) - first}.{match[2]}"
    return name


def _stages(layers: Layers, start: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the channels and the number of blocks of each stage; a convolution ends a stage."""
    numbers = {int(match[1]) for name in layers if (match := _NUMBERED.fullmatch(name.removeprefix(start)))}
    channels, blocks, count = [], [], 0
    for number in sorted(numbers)[1:]:
        weight = layers.get(f"{start}{number}.weight")
        if weight is None:
            count += 1
        else:
            channels.append(weight.shape[1])
            blocks.append(count)
            count = 0
    return tuple(channels), tuple(blocks)
