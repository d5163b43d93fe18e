"""Identify a LoRA by its tensors: its naming scheme, its algorithm and its cross-attention width.

kohya-ss (``lora_unet_*``), diffusers (``unet.*.lora_A``, ``*.lora.down``, ``*_lora.down``) and PEFT
(``base_model.model.*``) use different names for the same matrices. LyCORIS adds LoHa and LoKr
(https://arxiv.org/abs/2309.14859), whose deltas are other products of small matrices.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from imagegen_core.description import Contents
from imagegen_core.family import Family
from imagegen_core.models.loras.tensor_names import refused_algorithm
from imagegen_core.models.tensors import Tensor

# The suffix of a tensor that only this algorithm has. DoRA comes first, as it adds a tensor to another algorithm.
_ALGORITHMS = {
    "dora": re.compile(r"\.(dora_scale|lora_magnitude_vector(\.\w+)?(\.weight)?)$"),
    "loha": re.compile(r"\.hada_w[12]_[ab]$"),
    "lokr": re.compile(r"\.lokr_w[12](_[ab])?$"),
    "lora": re.compile(r"(\.lora_down|\.lora_A(\.\w+)?|[._]lora\.down|\.lora_linear_layer\.down)\.weight$"),
    "difference": re.compile(r"\.(diff|diff_b|w_norm|b_norm)$"),
    "embeddings": re.compile(r"^bundle_emb\."),
}
# Prefixes that only LoRA files use.
_PREFIXES = ("lora_unet_", "lora_te", "lycoris_", "base_model.model.")
_CROSS_ATTENTION = re.compile(r"attn2[._](processor[._])?to_k(?=[._])")


def lora_contents(tensors: Mapping[str, Tensor], families: Iterable[Family]) -> Contents | None:
    """Identify a LoRA and the family that it was made for; return None if the tensors are none."""
    algorithm = next((name for name, mark in _ALGORITHMS.items() if any(map(mark.search, tensors))), None)
    if algorithm is None:
        algorithm = next(filter(None, map(refused_algorithm, tensors)), None)
    if algorithm is None and any(name.startswith(_PREFIXES) for name in tensors):
        algorithm = "difference"  # full weights that replace the checkpoint's
    if algorithm is None:
        return None
    width = _width(tensors)
    return Contents(
        kind="lora",
        layout=_layout(tensors),
        family=_family(tensors, width, list(families)),
        cross_attention_dim=width,
        algorithm=algorithm,
    )


def _family(tensors: Mapping[str, Tensor], width: int | None, families: Sequence[Family]) -> str | None:
    by_width = (family.name for family in families if width in family.prompt_widths)
    marks = ((family.name, re.compile(mark)) for family in families for mark in family.lora_marks)
    by_name = (name for name, mark in marks if any(map(mark.search, tensors)))
    return next(by_width, None) or next(by_name, None)


def _layout(tensors: Mapping[str, Tensor]) -> str:
    """Return the naming scheme of the tensors."""
    if any(name.startswith(("lora_unet_", "lora_te")) for name in tensors):
        return "kohya"
    return "peft" if any(name.startswith("base_model.model.") for name in tensors) else "diffusers"


def _width(tensors: Mapping[str, Tensor]) -> int | None:
    """Return the cross-attention width; None if those layers are unchanged."""
    widths = (_input_width(name, tensors) for name in tensors if _CROSS_ATTENTION.search(name))
    return next((width for width in widths if width), None)


def _input_width(name: str, tensors: Mapping[str, Tensor]) -> int | None:
    """Return the input width of a layer from the tensor `name` and its neighbours; None if another tensor shows it."""
    if _ALGORITHMS["lora"].search(name) or name.endswith(".hada_w1_b"):
        return _last(tensors[name])
    module, _, part = name.rpartition(".")
    if part not in ("lokr_w1", "lokr_w1_b"):
        return None
    # The width of a Kronecker product is the product of both widths.
    other = tensors.get(f"{module}.lokr_w2") or tensors.get(f"{module}.lokr_w2_b")
    return _last(tensors[name]) * _last(other) if other else None


def _last(tensor: Tensor) -> int:
    return tensor.shape[1] if len(tensor.shape) > 1 else 0  # not a matrix, so no width
