"""The names of Stable Diffusion 3's transformer in its original code.

The original code: https://github.com/Stability-AI/sd3.5, ``mmditx.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from imagegen_core import LayerPart, OriginalNames

_BLOCK = re.compile(r"(?:joint|transformer)_blocks\.(\d+)\.")
_ENDS = {
    "pos_embed": "pos_embed.pos_embed",
    "x_embedder.proj": "pos_embed.proj",
    "context_embedder": "context_embedder",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
}
_STREAMS = {
    "x_block": {
        "attn.proj": "attn.to_out.0",
        "attn.ln_q": "attn.norm_q",
        "attn.ln_k": "attn.norm_k",
        "attn2.proj": "attn2.to_out.0",
        "attn2.ln_q": "attn2.norm_q",
        "attn2.ln_k": "attn2.norm_k",
        "mlp.fc1": "ff.net.0.proj",
        "mlp.fc2": "ff.net.2",
        "adaLN_modulation.1": "norm1.linear",
    },
    "context_block": {
        "attn.proj": "attn.to_add_out",
        "attn.ln_q": "attn.norm_added_q",
        "attn.ln_k": "attn.norm_added_k",
        "mlp.fc1": "ff_context.net.0.proj",
        "mlp.fc2": "ff_context.net.2",
        "adaLN_modulation.1": "norm1_context.linear",
    },
}
_STACKED = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}


def original_names(layers: Iterable[str]) -> OriginalNames:
    """Return the names for a network with these layers, in either naming.

    The last norms have the halves of their rows, shift and scale, in the other order than diffusers. The prompt's last
    norm is one of them, because no layer follows it.
    """
    last = max((int(match[1]) for name in layers if (match := _BLOCK.match(name))), default=-1)
    names: dict[str, Sequence[LayerPart]] = {original: (LayerPart(layer),) for original, layer in _ENDS.items()}
    names["final_layer.adaLN_modulation.1"] = (LayerPart("norm_out.linear", swapped=True),)
    for number in range(last + 1):
        block, original = f"transformer_blocks.{number}", f"joint_blocks.{number}"
        for stream, layers_of_stream in _STREAMS.items():
            for name, layer in layers_of_stream.items():
                names[f"{original}.{stream}.{name}"] = (LayerPart(f"{block}.{layer}"),)
        for stacked, parts in _STACKED.items():
            names[f"{original}.{stacked}"] = tuple(LayerPart(f"{block}.{part}") for part in parts)
        if number == last:
            norm = LayerPart(f"{block}.norm1_context.linear", swapped=True)
            names[f"{original}.context_block.adaLN_modulation.1"] = (norm,)
    return names
