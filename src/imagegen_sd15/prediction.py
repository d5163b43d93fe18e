"""The prediction type of Stable Diffusion 2's weights: its two checkpoints have the same shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

# ComfyUI's SD20.model_type separates the two checkpoints by this weight's spread.
_SPREAD = 0.09
_BIAS = (
    "output_blocks.11.1.transformer_blocks.0.norm1.bias",
    "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias",
)
_FIRST_LAYER = ("input_blocks.0.0.weight", "unet.conv_in.weight")
_WIDTH, _CHANNELS = 1024, 4


def prediction_of_weights(state: Mapping[str, Tensor]) -> Literal["v", "epsilon"] | None:
    """Return the prediction type of a Stable Diffusion 2 file; None for other files, which predict noise.

    Args:
        state: The file's tensors by name. Each access reads one tensor from the file.
    """
    attention = next((name for name in state if name.endswith("attn2.to_k.weight")), None)
    first = next((name for name in state if name.endswith(_FIRST_LAYER)), None)
    bias = next((name for name in state if name.endswith(_BIAS)), None)
    has_class_embeddings = any("label_emb" in name for name in state)  # unCLIP has class embeddings
    if attention is None or first is None or bias is None or has_class_embeddings:
        return None
    if state[attention].shape[-1] != _WIDTH or state[first].shape[1] != _CHANNELS:
        return None
    return "v" if float(state[bias].float().std(unbiased=False)) > _SPREAD else "epsilon"
