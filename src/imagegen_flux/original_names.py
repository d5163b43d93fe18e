"""The names of FLUX.1's transformer in its original code.

The original code: https://github.com/black-forest-labs/flux, ``src/flux/model.py`` and ``modules/layers.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from imagegen_core import LayerPart, OriginalNames

_BLOCK = re.compile(r"(single_|double_)?(?:transformer_)?blocks\.(\d+)\.")
_ENDS = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
}
# For queries and keys, the original code calls the weight of a norm its scale.
_DOUBLE = {
    "img_mod.lin": "norm1.linear",
    "img_attn.norm.query_norm.scale": "attn.norm_q.weight",
    "img_attn.norm.key_norm.scale": "attn.norm_k.weight",
    "img_attn.proj": "attn.to_out.0",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mod.lin": "norm1_context.linear",
    "txt_attn.norm.query_norm.scale": "attn.norm_added_q.weight",
    "txt_attn.norm.key_norm.scale": "attn.norm_added_k.weight",
    "txt_attn.proj": "attn.to_add_out",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
_SINGLE = {
    "modulation.lin": "norm.linear",
    "norm.query_norm.scale": "attn.norm_q.weight",
    "norm.key_norm.scale": "attn.norm_k.weight",
    "linear2": "proj_out",
}
_MLP_SHARE = 4  # a block's MLP is this many times as wide as the block


def original_names(layers: Iterable[str]) -> OriginalNames:
    """Return the names for a network with these layers, in either naming.

    The last norm has the halves of its rows, shift and scale, in the other order than diffusers.
    """
    blocks = {(match[1] == "single_", int(match[2])) for name in layers if (match := _BLOCK.match(name))}
    names: dict[str, Sequence[LayerPart]] = {original: (LayerPart(layer),) for original, layer in _ENDS.items()}
    names["final_layer.adaLN_modulation.1"] = (LayerPart("norm_out.linear", swapped=True),)
    for is_single, number in blocks:
        if is_single:
            names |= _block(f"single_blocks.{number}", f"single_transformer_blocks.{number}", _SINGLE)
        else:
            names |= _block(f"double_blocks.{number}", f"transformer_blocks.{number}", _DOUBLE)
    return names


def _block(original: str, block: str, layers: Mapping[str, str]) -> dict[str, Sequence[LayerPart]]:
    names: dict[str, Sequence[LayerPart]] = {
        f"{original}.{name}": (LayerPart(f"{block}.{layer}"),) for name, layer in layers.items()
    }
    attention = tuple(LayerPart(f"{block}.attn.to_{letter}") for letter in "qkv")
    if layers is _SINGLE:
        names[f"{original}.linear1"] = (*attention, LayerPart(f"{block}.proj_mlp", share=_MLP_SHARE))
    else:
        prompt = tuple(LayerPart(f"{block}.attn.add_{letter}_proj") for letter in "qkv")
        names |= {f"{original}.img_attn.qkv": attention, f"{original}.txt_attn.qkv": prompt}
    return names
