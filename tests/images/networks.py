"""Tiny random upscaling networks, under the names that training programs give their weights."""

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
    """An RRDB network as BasicSR names it; `scale` is 2 ** `ups` / `shuffle`."""
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
    """An SRVGGNetCompact with `depth` convolutions between the first and the last."""
    torch.manual_seed(6)
    weights = _conv("body.0", channels, width)
    for layer in range(depth):
        weights[f"body.{2 * layer + 1}.weight"] = torch.full((width,), 0.1)
        weights |= _conv(f"body.{2 * layer + 2}", width, width)
    weights[f"body.{2 * depth + 1}.weight"] = torch.full((width,), 0.1)
    return weights | _conv(f"body.{2 * depth + 2}", width, channels * scale**2)


def in_the_first_papers_names(weights: dict[str, Tensor], ups: int) -> dict[str, Tensor]:
    """An `esrgan` network's weights under the numbered names of the first program that trained one."""
    after = 3 * ups
    plain = {"conv_first": "model.0", "conv_hr": f"model.{after + 2}", "conv_last": f"model.{after + 4}"}
    plain |= {f"conv_up{up + 1}": f"model.{3 * (up + 1)}" for up in range(ups)}
    blocks = len({name.split(".")[1] for name in weights if name.startswith("body.")})
    plain["conv_body"] = f"model.1.sub.{blocks}"
    renamed = {}
    for name, tensor in weights.items():
        layer, _, kind = name.rpartition(".")
        block = layer.replace("body.", "model.1.sub.").replace(".rdb", ".RDB") + ".0"
        renamed[f"{plain.get(layer, block)}.{kind}"] = tensor
    return renamed


def _conv(name: str, incoming: int, outgoing: int) -> dict[str, Tensor]:
    layer = nn.Conv2d(incoming, outgoing, 3)
    return {f"{name}.{kind}": tensor.detach().clone() for kind, tensor in layer.state_dict().items()}
