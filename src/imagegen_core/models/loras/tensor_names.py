"""Parse the names of a LoRA's tensors, in the dialect of any program.

A name has three parts: the network, the layer, and the tensor's role in the layer's change. kohya-ss and LyCORIS join a
layer's path by underscores (``lora_unet_down_blocks_0_...``), the others by dots.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

UNET, TRANSFORMER, TEXT_ENCODER, TEXT_ENCODER_2, TEXT_ENCODER_3 = NETWORKS = (
    "unet",
    "transformer",
    "text_encoder",
    "text_encoder_2",
    "text_encoder_3",
)
DENOISERS = (UNET, TRANSFORMER)
"""The networks for denoising; a pipeline has one of them. kohya-ss writes ``lora_unet_`` for both."""
_T5 = (TEXT_ENCODER_3, TEXT_ENCODER_2)  # T5 is a pipeline's last text encoder

_PEFT = "base_model.model."
# The longer of two similar prefixes comes first.
_PREFIXES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("lora_unet_", DENOISERS),
    ("lora_transformer_", (TRANSFORMER,)),
    ("lora_te1_", (TEXT_ENCODER,)),
    ("lora_te2_", (TEXT_ENCODER_2,)),
    ("lora_te3_", _T5),
    ("lora_te_", (TEXT_ENCODER,)),
    ("lycoris_unet_", DENOISERS),
    ("lycoris_te1_", (TEXT_ENCODER,)),
    ("lycoris_te2_", (TEXT_ENCODER_2,)),
    ("lycoris_te_", (TEXT_ENCODER,)),
    ("lycoris_", NETWORKS),
    ("unet.", (UNET,)),
    ("transformer.", (TRANSFORMER,)),
    ("model.diffusion_model.", DENOISERS),
    ("diffusion_model.", DENOISERS),
    ("text_encoder_3.", (TEXT_ENCODER_3,)),
    ("text_encoder_2.", (TEXT_ENCODER_2,)),
    ("text_encoder.", (TEXT_ENCODER,)),
    ("text_encoders.clip_l.transformer.", (TEXT_ENCODER,)),
    ("text_encoders.clip_g.transformer.", (TEXT_ENCODER_2,)),
    ("text_encoders.t5xxl.transformer.", _T5),
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
    "down": rf"lora_down\.weight|lora_A(?:{_ADAPTER}\.weight)?|lora(?:_linear_layer)?\.down\.weight",
    "up": rf"lora_up\.weight|lora_B(?:{_ADAPTER}\.weight)?|lora(?:_linear_layer)?\.up\.weight",
    "mid": r"lora_mid\.weight",
    "up_bias": rf"lora_up\.bias|lora_B{_ADAPTER}\.bias|lora\.up\.bias",
    "alpha": r"alpha",
    "scale": r"scale",
    "dora_scale": r"dora_scale",
    "magnitude": rf"lora_magnitude_vector{_ADAPTER}(?:\.weight)?",
    **{factor: rf"{factor}{_ADAPTER}" for factor in _FACTORS},
    "diff": r"diff|w_norm",
    "diff_b": r"diff_b|b_norm",
    "weight": rf"(?:modules_to_save{_ADAPTER}\.|base_layer\.)?weight",
    "bias": rf"(?:modules_to_save{_ADAPTER}\.|base_layer\.)?bias",
}
_ROLE = re.compile("|".join(f"(?P<{role}>{end})" for role, end in _ROLES.items()))
_LONGEST = 3  # the maximum number of parts between dots in a role
_PROCESSORS = {"_lora.down.weight": "down", "_lora.up.weight": "up"}  # diffusers' oldest: ``to_q_lora.down.weight``

_REFUSED = {
    "OFT": r"oft_",
    "BOFT": r"boft_",
    "IA3": r"on_input$|ia3_l",
    "GLoRA": r"(a1|a2|b1|b2|bm1|bm2)\.weight$",
    "AdaLoRA": r"lora_E\b|ranknum$",
    "VeRA": r"vera_",
    "VB-LoRA": r"vblora_",
    "FourierFT": r"fourierft_",
    "HRA": r"hra_u",
    "LoRA on an embedding table": r"lora_embedding_[AB]",
    "Control-LoRA": r"lora_controlnet$",
    "a bias given by its indices": r"bias_(indices|values|size)$",
    "T-LoRA": r"(q_layer\.weight|p_layer\.weight|lambda_layer)$",
    "ReFT": r"reft_",
    "an absolute weight": r"set_weight$",
}
_REFUSED_NAME = {algorithm: re.compile(rf"(?:^|\.)(?:{mark})") for algorithm, mark in _REFUSED.items()}


class TensorName(NamedTuple):
    """The parts of a tensor's name.

    Attributes:
        networks: The possible networks of its layer: one, several if the prefix is of several, or all without a prefix.
        layer: The layer's name in the file, without the network's prefix.
        role: The tensor's role in the layer's change, such as ``down``, ``alpha`` or ``hada_w1_a``.
        is_peft: Whether the name is one of PEFT's own, so that ``adapter_config.json`` applies.
    """

    networks: tuple[str, ...]
    layer: str
    role: str
    is_peft: bool


def parse(name: str) -> TensorName | None:
    """Parse a tensor's name; return None if its dialect is unknown."""
    layer, role = _split(name)
    if role is None:
        return None
    layer = layer.replace(".processor.", ".")
    is_peft = layer.startswith(_PEFT)
    layer = layer.removeprefix(_PEFT)
    for prefix, networks in _PREFIXES:
        if layer.startswith(prefix):
            return TensorName(networks, layer.removeprefix(prefix), role, is_peft)
    return TensorName(NETWORKS, layer, role, is_peft)


def refused_algorithm(name: str) -> str | None:
    """Return the unsupported algorithm of a tensor's name; None for a supported one."""
    return _refused(".".join(name.split(".")[-_LONGEST:]))


def _split(name: str) -> tuple[str, str | None]:
    """Split a name into layer and role; the role is None if unknown."""
    for end, role in _PROCESSORS.items():
        if name.endswith(end):
            return name.removesuffix(end), role
    parts = name.split(".")
    for count in range(min(_LONGEST, len(parts) - 1), 0, -1):
        if role_name := _role(".".join(parts[-count:])):
            return ".".join(parts[:-count]), role_name
    return name, None


# The names of a file have few different ends.
@lru_cache(maxsize=4096)
def _role(end: str) -> str | None:
    match = _ROLE.fullmatch(end)
    return match.lastgroup if match else None


@lru_cache(maxsize=4096)
def _refused(end: str) -> str | None:
    return next((algorithm for algorithm, mark in _REFUSED_NAME.items() if mark.search(end)), None)
