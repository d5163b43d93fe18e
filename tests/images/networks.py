"""Tiny random upscaling networks; their weights have the names of the training programs."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def esrgan(
    *,
    scale: int = 2,
    ups: int = 1,
    shuffle: int = 1,
    blocks: int = 2,
    width: int = 8,
    channels: int = 3,
    growth: int = 4,
) -> dict[str, Tensor]:
    """Return an RRDB network's weights by BasicSR's names; `scale` is 2 ** `ups` / `shuffle`."""
    assert scale * shuffle == 2**ups
    torch.manual_seed(5)
    layers = {"conv_first": (channels * shuffle**2, width), "conv_body": (width, width)}
    for block in range(blocks):
        for part in (1, 2, 3):
            for layer in range(1, 6):
                name = f"body.{block}.rdb{part}.conv{layer}"
                layers[name] = (width + growth * (layer - 1), growth if layer < 5 else width)
    layers |= {f"conv_up{up + 1}": (width, width) for up in range(ups)}
    layers |= {"conv_hr": (width, width), "conv_last": (width, channels)}
    weights = {}
    for name, (incoming, outgoing) in layers.items():
        weights |= _conv(name, incoming, outgoing)
    weights["conv_last.weight"] *= 3  # so that the output spans many levels
    weights["conv_last.bias"] += 0.5
    return weights


def compact(*, scale: int = 2, depth: int = 3, width: int = 8, channels: int = 3) -> dict[str, Tensor]:
    """Return an SRVGGNetCompact's weights, with `depth` convolutions between the first and the last."""
    torch.manual_seed(6)
    weights = _conv("body.0", channels, width)
    for layer in range(depth):
        weights[f"body.{2 * layer + 1}.weight"] = torch.full((width,), 0.1)
        weights |= _conv(f"body.{2 * layer + 2}", width, width)
    weights[f"body.{2 * depth + 1}.weight"] = torch.full((width,), 0.1)
    return weights | _conv(f"body.{2 * depth + 2}", width, channels * scale**2)


def with_original_names(weights: dict[str, Tensor], ups: int) -> dict[str, Tensor]:
    """Return an `esrgan` network's weights by the numbered names of the original training program."""
    last = 3 * ups
    new_names = {"conv_first": "model.0", "conv_hr": f"model.{last + 2}", "conv_last": f"model.{last + 4}"}
    new_names |= {f"conv_up{up + 1}": f"model.{3 * (up + 1)}" for up in range(ups)}
    blocks = len({name.split(".")[1] for name in weights if name.startswith("body.")})
    new_names["conv_body"] = f"model.1.sub.{blocks}"
    renamed = {}
    for name, tensor in weights.items():
        layer, _, kind = name.rpartition(".")
        block = layer.replace("body.", "model.1.sub.").replace(".rdb", ".RDB") + ".0"
        renamed[f"{new_names.get(layer, block)}.{kind}"] = tensor
    return renamed


def _conv(name: str, incoming: int, outgoing: int) -> dict[str, Tensor]:
    layer = nn.Conv2d(incoming, outgoing, 3)
    return {f"{name}.{kind}": tensor.detach().clone() for kind, tensor in layer.state_dict().items()}
