"""Identify the contents of a weights file by the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping

from imagegen_core.models.description import Contents
from imagegen_core.models.families import COMPONENTS, TEXT_ENCODERS, WIDTHS, family_of
from imagegen_core.models.loras.contents import lora_contents
from imagegen_core.models.networks.parts import UNET_PREFIXES, VAE_PREFIXES, unwrapped
from imagegen_core.models.tensors import Tensor

Tensors = Mapping[str, Tensor]

_CROSS_ATTENTION = "attn2.to_k.weight"
# A UNet is known by its first layer, its last layer and a block of its second half. A ControlNet lacks that block. The
# fourth name is SDXL's text-time embedding. SD2's upscaler also has a label_emb, but as one table instead of two
# layers.
_UNETS = {
    "ldm": ("input_blocks.0.0.weight", "out.2.weight", "output_blocks.0.0.", "label_emb.0.0.weight"),
    "diffusers": ("conv_in.weight", "conv_out.weight", "up_blocks.0.", "add_embedding.linear_1.weight"),
}
_VAES = {"ldm": "decoder.up.", "diffusers": "decoder.up_blocks."}
# An upscaler is known by its first convolution and by a layer that no architecture above it in this list has.
_UPSCALERS = {
    "esrgan-old": ("model.0.weight", re.compile(r"model\.1\.sub\.0\.RDB1\.conv1\.0\.weight")),
    "esrgan": ("conv_first.weight", re.compile(r"(body|RRDB_trunk)\.0\.(rdb1|RDB1)\.conv1\.weight")),
    "hat": ("conv_first.weight", re.compile(r"layers\.0\.residual_group\.overlap_attn\.qkv\.weight")),
    "swin2sr": ("patch_embed.proj.weight", re.compile(r"layers\.0\.residual_group\.blocks\.0\.attn\.qkv\.weight")),
    "swinir": ("conv_first.weight", re.compile(r"layers\.0\.residual_group\.blocks\.0\.attn\.qkv\.weight")),
    "dat": ("conv_first.weight", re.compile(r"layers\.0\.blocks\.0\.ffn\.sg\.conv\.weight")),
    "rgt": ("conv_first.weight", re.compile(r"layers\.0\.blocks\.0\.attn\.attns\.0\.rpe_biases")),
    "atd": ("conv_first.weight", re.compile(r"layers\.0\.residual_group\.layers\.0\.wqkv\.weight")),
    "drct": ("conv_first.weight", re.compile(r"layers\.0\.swin1\.attn\.qkv\.weight")),
    "omnisr": ("input.weight", re.compile(r"residual_layer\.0\.residual_layer\.0\.layer\.0\.fn\.0\.weight")),
    "span": ("conv_1.sk.weight", re.compile(r"block_1\.c1_r\.sk\.weight")),
    "plksr": ("feats.0.weight", re.compile(r"feats\.1\.lk\.(conv|convs\.0|mn_conv)\.weight")),
    "rcan": ("tail.1.weight", re.compile(r"body\.0\.body\.0\.body\.3\.conv_du\.0\.weight")),
    "compact": ("body.0.weight", re.compile(r"body\.2\.weight")),
}
_LINEAR, _CONVOLUTION = 2, 4  # the dimensions of a layer's weight


def contents(tensors: Tensors) -> Contents | None:
    """Identify the tensors; return None if they are unknown."""
    tensors = unwrapped(tensors)
    kinds = (lora_contents, _diffusion, _upscaler, _text_encoder, _embedding)
    return next((description for identify in kinds if (description := identify(tensors))), None)


def _diffusion(tensors: Tensors) -> Contents | None:
    """Identify a checkpoint, or a UNet or VAE alone."""
    unet, vae = _unet(tensors), _vae(tensors)
    encoders = [(component, family) for prefix, component, family in TEXT_ENCODERS if _any(tensors, prefix)]
    by_encoder = encoders[0][1] if encoders else None
    if unet is None:
        return Contents(kind="vae", layout=vae, family=by_encoder) if vae else None
    prefix, layout = unet
    first, _, _, text_time = _UNETS[layout]
    width = _width(tensors, prefix)
    # SD2's unCLIP also has such embeddings, together with SD2's text encoder.
    has_text_time = prefix + text_time in tensors and by_encoder not in ("sd15", "sd2")
    family = family_of(width, text_time=has_text_time, otherwise=by_encoder)
    convolution = tensors[prefix + first].shape
    there = ("unet", *(("vae",) if vae else ()), *(component for component, _ in encoders))
    whole = COMPONENTS[family] if family else ()
    is_checkpoint = len(there) > 1
    return Contents(
        kind="checkpoint" if is_checkpoint else "unet",
        layout=layout,
        family=family,
        cross_attention_dim=width,
        input_channels=convolution[1] if len(convolution) == _CONVOLUTION else None,
        components=there if is_checkpoint else (),
        missing=tuple(part for part in whole if part not in there) if is_checkpoint else (),
    )


def _unet(tensors: Tensors) -> tuple[str, str] | None:
    """Return the prefix and the layout of a UNet's names."""
    for prefix in (*UNET_PREFIXES, ""):
        for layout, (first, last, block, _) in _UNETS.items():
            if prefix + first in tensors and prefix + last in tensors and _any(tensors, prefix + block):
                return prefix, layout
    return None


def _width(tensors: Tensors, prefix: str) -> int | None:
    for name, tensor in tensors.items():
        if name.endswith(_CROSS_ATTENTION) and name.startswith(prefix) and len(tensor.shape) == _LINEAR:
            return tensor.shape[1]
    return None


def _vae(tensors: Tensors) -> str | None:
    """Return the layout of a VAE's names."""
    for prefix in (*VAE_PREFIXES, ""):
        for layout, blocks in _VAES.items():
            if f"{prefix}decoder.conv_in.weight" in tensors and _any(tensors, prefix + blocks):
                return layout
    return None


def _upscaler(tensors: Tensors) -> Contents | None:
    for layout, (first, mark) in _UPSCALERS.items():
        is_convolution = first in tensors and len(tensors[first].shape) == _CONVOLUTION
        if is_convolution and any(map(mark.fullmatch, tensors)):
            return Contents(kind="upscaler", layout=layout)
    return None


def _text_encoder(tensors: Tensors) -> Contents | None:
    for prefix, _, family in TEXT_ENCODERS:
        if _any(tensors, prefix):
            return Contents(kind="text-encoder", layout="ldm", family=family)
    # transformers 5 writes these names with or without their first part, depending on the class.
    if _any(tensors, "text_model.embeddings.token_embedding.") or _any(tensors, "embeddings.token_embedding."):
        return Contents(kind="text-encoder", layout="transformers")
    if "token_embedding.weight" in tensors and _any(tensors, "transformer.resblocks.0.attn."):
        return Contents(kind="text-encoder", layout="open_clip")
    return None


def _embedding(tensors: Tensors) -> Contents | None:
    """Identify a textual inversion: vectors for a word, each as wide as the text encoder."""
    widths = {name: tensor.shape[-1] for name, tensor in tensors.items() if 1 <= len(tensor.shape) <= _LINEAR}
    if widths.keys() == tensors.keys() == {"clip_l", "clip_g"}:
        return Contents(kind="embedding", layout="sdxl", family="sdxl", cross_attention_dim=sum(widths.values()))
    name = next((name for name in widths if name == "emb_params" or name.startswith("string_to_param.")), None)
    layout = "a1111"
    if name is None and len(tensors) == len(widths) == 1:
        (name,), layout = widths, "diffusers"
    if name is None:
        return None
    family = WIDTHS[widths[name]] if widths[name] in (768, 1024) else None  # SDXL's embeddings have two encoders
    return Contents(kind="embedding", layout=layout, family=family, cross_attention_dim=widths[name])


def _any(tensors: Tensors, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in tensors)
