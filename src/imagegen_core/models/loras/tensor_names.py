"""The names of a LoRA's tensors, in the dialect of any program that writes them.

A name says three things: the network, the layer, and the tensor's role in the layer's change. kohya-ss and LyCORIS join
a layer's path by underscores (``lora_unet_down_blocks_0_...``), the others by dots.
"""

from __future__ import annotations

import re
from typing import NamedTuple

UNET, TEXT_ENCODER, TEXT_ENCODER_2 = NETWORKS = ("unet", "text_encoder", "text_encoder_2")

_PEFT = "base_model.model."
# The longer of two prefixes comes first.
_PREFIXES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("lora_unet_", (UNET,)),
    ("lora_te1_", (TEXT_ENCODER,)),
    ("lora_te2_", (TEXT_ENCODER_2,)),
    ("lora_te_", (TEXT_ENCODER,)),
    ("lycoris_unet_", (UNET,)),
    ("lycoris_te1_", (TEXT_ENCODER,)),
    ("lycoris_te2_", (TEXT_ENCODER_2,)),
    ("lycoris_te_", (TEXT_ENCODER,)),
    ("lycoris_", NETWORKS),
    ("unet.", (UNET,)),
    ("model.diffusion_model.", (UNET,)),
    ("diffusion_model.", (UNET,)),
    ("text_encoder_2.", (TEXT_ENCODER_2,)),
    ("text_encoder.", (TEXT_ENCODER,)),
    ("text_encoders.clip_l.transformer.", (TEXT_ENCODER,)),
    ("text_encoders.clip_g.transformer.", (TEXT_ENCODER_2,)),
    ("clip_l.transformer.", (TEXT_ENCODER,)),
    ("clip_g.transformer.", (TEXT_ENCODER_2,)),
    ("clip_l.", (TEXT_ENCODER,)),
    ("clip_g.", (TEXT_ENCODER_2,)),
)

_ADAPTER = r"(?:\.[^.]+)?"  # PEFT puts the adapter's name after the tensor's
_FACTORS = (
    *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
)
_ROLES = {
    "down": rf"\.lora_down\.weight|\.lora_A(?:{_ADAPTER}\.weight)?|(?:[._]lora|\.lora_linear_layer)\.down\.weight",
    "up": rf"\.lora_up\.weight|\.lora_B(?:{_ADAPTER}\.weight)?|(?:[._]lora|\.lora_linear_layer)\.up\.weight",
    "mid": r"\.lora_mid\.weight",
    "up_bias": rf"\.lora_up\.bias|\.lora_B{_ADAPTER}\.bias|[._]lora\.up\.bias",
    "alpha": r"\.alpha",
    "scale": r"\.scale",
    "dora_scale": r"\.dora_scale",
    "magnitude": rf"\.lora_magnitude_vector{_ADAPTER}(?:\.weight)?",
    **{factor: rf"\.{factor}{_ADAPTER}" for factor in _FACTORS},
    "diff": r"\.diff|\.w_norm",
    "diff_b": r"\.diff_b|\.b_norm",
    "weight": rf"(?:\.modules_to_save{_ADAPTER}|\.base_layer)?\.weight",
    "bias": rf"(?:\.modules_to_save{_ADAPTER}|\.base_layer)?\.bias",
}
_ENDS = "|".join(f"(?P<{role}>{ends})" for role, ends in _ROLES.items())
_NAME = re.compile(rf"(?P<layer>.+?)(?:{_ENDS})", re.DOTALL)

_REFUSED = {
    "OFT": re.compile(r"\.oft_"),
    "BOFT": re.compile(r"\.boft_"),
    "IA3": re.compile(r"\.on_input$|\.ia3_l"),
    "GLoRA": re.compile(r"\.(a1|a2|b1|b2|bm1|bm2)\.weight$"),
    "AdaLoRA": re.compile(r"\.lora_E\b|\.ranknum\b"),
    "VeRA": re.compile(r"\bvera_"),
    "VB-LoRA": re.compile(r"\bvblora_"),
    "FourierFT": re.compile(r"\.fourierft_"),
    "HRA": re.compile(r"\.hra_u"),
    "LoRA on an embedding table": re.compile(r"\.lora_embedding_[AB]"),
    "Control-LoRA": re.compile(r"^lora_controlnet$"),
    "a bias given by its indices": re.compile(r"\.bias_(indices|values|size)$"),
    "T-LoRA": re.compile(r"\.(q_layer\.weight|p_layer\.weight|lambda_layer)$"),
    "ReFT": re.compile(r"\.reft_"),
    "an absolute weight": re.compile(r"\.set_weight$"),
}


class TensorName(NamedTuple):
    """What a tensor's name says.

    Attributes:
        networks: Where its layer may be: one network, or all of them where the name does not tell.
        layer: The layer as the file writes it, without the network's prefix.
        role: What the tensor is in the layer's change, such as ``down``, ``alpha`` or ``hada_w1_a``.
        is_peft: Whether the name is one of PEFT's own, which ``adapter_config.json`` belongs to.
    """

    networks: tuple[str, ...]
    layer: str
    role: str
    is_peft: bool


def parse(name: str) -> TensorName | None:
    """Read a tensor's name; None if it is of no dialect known here."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    role = str(found.lastgroup)
    layer = found["layer"].replace(".processor.", ".")
    is_peft = layer.startswith(_PEFT)
    layer = layer.removeprefix(_PEFT)
    for prefix, networks in _PREFIXES:
        if layer.startswith(prefix):
            return TensorName(networks, layer.removeprefix(prefix), role, is_peft)
    return TensorName(NETWORKS, layer, role, is_peft)


def refused_algorithm(name: str) -> str | None:
    """The algorithm that a tensor's name belongs to, where it is one that is not drawn here."""
    return next((algorithm for algorithm, mark in _REFUSED.items() if mark.search(name)), None)
