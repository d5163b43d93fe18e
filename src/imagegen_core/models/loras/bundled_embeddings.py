"""OneTrainer's textual inversions, bundled with a LoRA under ``bundle_emb.WORD``."""

from __future__ import annotations

from collections.abc import Mapping

from imagegen_core.models.loras.checkpoint_layers import LOOKUPS, CheckpointLayers
from imagegen_core.models.loras.refusals import FLOATS, LoraError, mismatch
from imagegen_core.models.loras.tensor_names import TEXT_ENCODER, TEXT_ENCODER_2
from imagegen_core.models.tensors import Tensor, quoted

BUNDLED = "bundle_emb."
"""The prefix of bundled tensors' names."""

_ENCODERS = {
    "clip_l": TEXT_ENCODER,
    "clip_g": TEXT_ENCODER_2,
    "string_to_param.*": TEXT_ENCODER,
    "emb_params": TEXT_ENCODER,
}


def bundled_embeddings(tensors: Mapping[str, Tensor], layers: CheckpointLayers) -> dict[str, dict[str, str]]:
    """Find the bundled words among a LoRA's tensors.

    Returns:
        For each word its tensors' names, by the keys of an embedding's own file.

    Raises:
        LoraError: A tensor does not fit the checkpoint's text encoders.
    """
    has_one_encoder = TEXT_ENCODER_2 not in layers.networks
    words: dict[str, dict[str, str]] = {}
    for name, tensor in tensors.items():
        if not name.startswith(BUNDLED):
            continue
        part = next((part for part in _ENCODERS if name.endswith(f".{part}")), None)
        table = None if part is None else layers.shape(_ENCODERS[part], LOOKUPS[0])
        shape = tensor.shape
        if part is None or table is None or len(shape) != len(table) or shape[1] != table[1] or 0 in shape:
            raise LoraError(mismatch(name, shape, table))
        if tensor.dtype not in FLOATS:
            raise LoraError(f"its tensor {quoted(name)} holds {tensor.dtype} numbers; save it as floating point")
        word = name.removeprefix(BUNDLED).removesuffix(f".{part}")
        words.setdefault(word, {})["emb_params" if has_one_encoder else part] = name
    return words
