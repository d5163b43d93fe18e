"""A CLIP text encoder's layers by transformers' names, from open_clip's or its own, and its config from their shapes.

Some classes and releases of transformers nest these layers in a ``text_model``. Here they are never nested.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from imagegen_core.models.networks.source import Layers, Source, renamed

_OPEN_CLIP = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_OPEN_CLIP_PARTS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)")
_STACKED = re.compile(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)")
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")


def text_layers(layers: Layers) -> dict[str, Source]:
    """Return the layers by transformers' names; unknown layers keep their own."""
    parts: dict[str, Source] = {}
    for name, source in layers.items():
        if stacked := _STACKED.fullmatch(name):
            for third, part in enumerate(("q_proj", "k_proj", "v_proj")):
                parts[f"encoder.layers.{stacked[1]}.self_attn.{part}.{stacked[2]}"] = source.of_stack(third)
        elif name == "text_projection":
            parts["text_projection.weight"] = source.turned()
        else:
            parts[name] = source
    return renamed(parts, _transformers_name)


def text_config(layers: Layers, family: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a transformers ``CLIPTextModel`` with these layers; see `unet_config`.

    Raises:
        KeyError: A layer that every text encoder has is missing.
    """
    vocabulary, width = layers["embeddings.token_embedding.weight"].shape
    config = {
        **family,
        "vocab_size": vocabulary,
        "hidden_size": width,
        "max_position_embeddings": layers["embeddings.position_embedding.weight"].shape[0],
        "intermediate_size": layers["encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": _layer_count(layers),
        "num_attention_heads": _heads(width, family),
    }
    if projection := layers.get("text_projection.weight"):
        config["projection_dim"] = projection.shape[0]
    return config


def _transformers_name(name: str) -> str:
    if block := _BLOCK.fullmatch(name):
        return f"encoder.layers.{block[1]}.{_OPEN_CLIP_PARTS.get(block[2], block[2])}.{block[3]}"
    return _OPEN_CLIP.get(name, name.removeprefix("text_model."))


def without_unused_layer(layers: Layers, family: Mapping[str, Any]) -> dict[str, Source]:
    """Drop open_clip's last layer if the family's config has a layer less: it is not used.

    Files hold all 24 layers of OpenCLIP-H where the config has 23.
    """
    last = _layer_count(layers) - 1
    has_unused = last == family["num_hidden_layers"] and any(".resblocks." in source.name for source in layers.values())
    return {
        name: source
        for name, source in layers.items()
        if not (has_unused and name.startswith(f"encoder.layers.{last}."))
    }


def _layer_count(layers: Layers) -> int:
    return max((int(match[1]) for name in layers if (match := _LAYER.match(name))), default=-1) + 1


def _heads(width: int, family: Mapping[str, Any]) -> int:
    """Return the number of heads that keeps the family's width per head: CLIP has 64 channels at every size."""
    if width == family["hidden_size"]:
        return int(family["num_attention_heads"])
    return max(1, width // (int(family["hidden_size"]) // int(family["num_attention_heads"])))
