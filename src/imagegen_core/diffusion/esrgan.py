"""ESRGAN's family of upscaling networks, with the layer names of any training program.

RRDB networks: https://arxiv.org/abs/1809.00219, and https://arxiv.org/abs/2107.10833 for scales below 4. Compact
networks: SRVGGNetCompact of https://github.com/xinntao/Real-ESRGAN.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from imagegen_core.diffusion.upscaler_network import Network
from imagegen_core.diffusion.upscaler_weights import Weights
from imagegen_core.errors import ModelLoadError
from imagegen_core.parts import Parts

# The practical reach of a deep network, in pixels. The theoretical reach is hundreds of pixels: a tile would be mostly
# surroundings.
DEEP_OVERLAP = 32
_CONVOLUTION = 4  # the dimensions of a convolution's weight

_RRDB_BLOCK = re.compile(r"(?:body|RRDB_trunk|model\.1\.sub)\.(\d+)\.(?:rdb|RDB)([123])\.conv([1-5])(?:\.0)?")
_OLD_TRUNK = re.compile(r"model\.1\.sub\.\d+")
_RRDB_LAYERS = {
    "conv_first": "first",
    "conv_body": "trunk",
    "trunk_conv": "trunk",
    "conv_up1": "up.0",
    "upconv1": "up.0",
    "conv_up2": "up.1",
    "upconv2": "up.1",
    "conv_hr": "high",
    "HRconv": "high",
    "conv_last": "last",
}


def esrgan_network(weights: Weights, path: Path) -> Network | str:
    """Return the network of ESRGAN's family for these weights, or the reason why there is none, in words.

    Raises:
        ModelLoadError: The network is of ESRGAN's family, but lacks a layer, or its channels do not fit together.
    """
    layers = _count(weights, "body")
    if layers % 2 and weights.keys() == _compact_names(layers):
        taken, given = _channels(weights["body.0.weight"], weights[f"body.{layers - 1}.weight"], path)
        scale = _root_of(given, taken, path)
        return Network(partial(_compact, weights, layers, scale), taken, layers // 2 + 1)
    if not any(_RRDB_BLOCK.fullmatch(name.rpartition(".")[0]) for name in weights):
        return "it is not of ESRGAN's family"
    named = _named_alike(weights)
    if isinstance(named, str):
        return named
    blocks, ups = _count(named, "blocks"), _count(named, "up")
    for name in _rrdb_names(blocks, ups):
        if name not in named:
            layer, _, kind = name.rpartition(".")
            raise ModelLoadError(
                f"Cannot run {path}: the layer '{layer}' of its ESRGAN network has no {kind}; give another upscaler"
            )
    taken, given = _channels(named["first.weight"], named["last.weight"], path)
    shuffle = _root_of(taken, given, path)
    return Network(partial(_rrdb, named, blocks, ups, shuffle), given, DEEP_OVERLAP)


def _channels(first: Tensor, last: Tensor, path: Path) -> tuple[int, int]:
    """Return the first layer's input channels and the last layer's output channels."""
    if first.ndim != _CONVOLUTION or last.ndim != _CONVOLUTION or not first.numel() or not last.numel():
        raise ModelLoadError(
            f"Cannot run {path}: the first or the last layer of its ESRGAN network is not a convolution; give another "
            "upscaler"
        )
    return first.shape[1], last.shape[0]


def _root_of(many: int, channels: int, path: Path) -> int:
    """Return the scale of a pixel shuffle from `many` channels to `channels`."""
    scale = math.isqrt(many // channels)
    if channels * scale**2 != many:
        raise ModelLoadError(
            f"Cannot run {path}: {many} channels at one end of its ESRGAN network and {channels} at the other make no "
            "whole scale; give another upscaler"
        )
    return scale


def _compact_names(layers: int) -> set[str]:
    convolutions = {f"body.{layer}.{kind}" for layer in range(0, layers, 2) for kind in ("weight", "bias")}
    return convolutions | {f"body.{layer}.weight" for layer in range(1, layers, 2)}


def _rrdb_names(blocks: int, ups: int) -> list[str]:
    layers = ["first", "trunk", "high", "last", *(f"up.{up}" for up in range(ups))]
    layers += [f"blocks.{block}.{part}.{conv}" for block in range(blocks) for part in (1, 2, 3) for conv in range(1, 6)]
    return [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]


def _rrdb(weights: Weights, blocks: int, ups: int, shuffle: int, image: Tensor) -> Parts[Tensor]:
    def conv(layer: str, features: Tensor) -> Tensor:
        return functional.conv2d(features, weights[f"{layer}.weight"], weights[f"{layer}.bias"], padding=1)

    def activated(layer: str, features: Tensor) -> Tensor:
        return functional.leaky_relu(conv(layer, features), 0.2)

    def dense(block: str, features: Tensor) -> Tensor:
        seen = features
        for layer in range(1, 5):
            seen = torch.cat((seen, activated(f"{block}.{layer}", seen)), dim=1)
        return features + 0.2 * conv(f"{block}.5", seen)

    height, width = image.shape[2:]
    features = conv("first", functional.pixel_unshuffle(_continued(image, shuffle), shuffle))
    deep = features
    for block in range(blocks):
        yield
        inner = deep
        for part in range(1, 4):
            inner = dense(f"blocks.{block}.{part}", inner)
        deep = deep + 0.2 * inner
    features = features + conv("trunk", deep)
    for up in range(ups):
        yield
        features = activated(f"up.{up}", functional.interpolate(features, scale_factor=2, mode="nearest"))
    yield
    features = activated("high", features)
    yield
    enlarged = conv("last", features)
    return enlarged[:, :, : height * 2**ups // shuffle, : width * 2**ups // shuffle]


def _compact(weights: Weights, layers: int, scale: int, image: Tensor) -> Parts[Tensor]:
    features = image
    for layer in range(0, layers, 2):
        yield
        features = functional.conv2d(
            features, weights[f"body.{layer}.weight"], weights[f"body.{layer}.bias"], padding=1
        )
        if layer < layers - 1:
            features = functional.prelu(features, weights[f"body.{layer + 1}.weight"])
    return functional.pixel_shuffle(features, scale) + functional.interpolate(image, scale_factor=scale)


def _continued(image: Tensor, multiple: int) -> Tensor:
    """Pad the image to multiples of `multiple`: mirror it, or repeat its edge where it is too small."""
    down, right = (-side % multiple for side in image.shape[2:])
    mirrored = (0, min(right, image.shape[3] - 1), 0, min(down, image.shape[2] - 1))
    image = functional.pad(image, mirrored, mode="reflect")
    return functional.pad(image, (0, right - mirrored[1], 0, down - mirrored[3]), mode="replicate")


def _named_alike(weights: Weights) -> Weights | str:
    """Return RRDB weights under uniform names, or a sentence about a name of no such layer."""
    numbered = sorted({int(match[1]) for name in weights if (match := re.fullmatch(r"model\.(\d+)\.weight", name))})
    roles = ("first", *(f"up.{number}" for number in range(len(numbered) - 3)), "high", "last")
    layers = _RRDB_LAYERS | {f"model.{number}": role for number, role in zip(numbered, roles, strict=False)}
    named: Weights = {}
    for name, tensor in weights.items():
        layer, _, kind = name.rpartition(".")
        if match := _RRDB_BLOCK.fullmatch(layer):
            alike = f"blocks.{match[1]}.{match[2]}.{match[3]}.{kind}"
        else:
            alike = f"{layers.get(layer, 'trunk' if _OLD_TRUNK.fullmatch(layer) else '')}.{kind}"
        if alike.startswith(".") or kind not in ("weight", "bias") or alike in named:
            return f"its {name!r} is of no layer that an ESRGAN network has"
        named[alike] = tensor
    return named


def _count(names: Iterable[str], prefix: str) -> int:
    return len({name.split(".")[1] for name in names if name.startswith(f"{prefix}.")})
