"""Identify the contents of a weights file by the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from imagegen_core.description import Contents
from imagegen_core.family import Family, Shapes
from imagegen_core.models.loras.contents import lora_contents
from imagegen_core.models.networks.harmless import is_harmless
from imagegen_core.models.networks.parts import VAE_PREFIXES, unwrapped
from imagegen_core.models.networks.tiny_vae import tiny_vae_halves, tiny_vae_layers
from imagegen_core.models.tensors import Tensor

Tensors = Mapping[str, Tensor]

_CROSS_ATTENTION = "attn2.to_k.weight"
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


def contents(tensors: Tensors, families: Iterable[Family]) -> Contents | None:
    """Identify the tensors; return None if they are unknown.

    Args:
        tensors: The tensors of a file.
        families: The declared families.
    """
    tensors, families = unwrapped(tensors), list(families)
    return (
        lora_contents(tensors, families)
        or checkpoint_contents({name: tensor.shape for name, tensor in tensors.items()}, families)
        or _part(tensors, families)
        or _tiny_vae(tensors)
        or _upscaler(tensors)
        or _text_encoder(tensors)
        or _embedding(tensors, families)
    )


def checkpoint_contents(shapes: Shapes, families: Iterable[Family]) -> Contents | None:
    """Identify a checkpoint, or a denoising network alone, by the shapes of its tensors; return None if it is neither.

    Args:
        shapes: The shapes of a file's tensors by their names.
        families: The declared families; the first that recognizes the tensors counts.
    """
    for family in families:
        if (network := _network(shapes, family)) and family.fits_file(shapes):
            return _of_family(family, shapes, *network)
    return None


def _network(shapes: Shapes, family: Family) -> tuple[str, str] | None:
    """Return the prefix and the layout of a family's denoising network."""
    for prefix in (*family.prefixes_of(family.denoiser), ""):
        for layout, names in family.layouts.items():
            if all(_stands(prefix + name, shapes) for name in names):
                return prefix, layout
    return None


def _stands(name: str, shapes: Shapes) -> bool:
    return name in shapes or (name.endswith(".") and _any(shapes, name))


def _of_family(family: Family, shapes: Shapes, prefix: str, layout: str) -> Contents:
    first = shapes.get(prefix + family.layouts[layout][0], ())
    present = {name for start, name in family.prefixes.items() if _any(shapes, start)} | {family.denoiser}
    there = tuple(name for name in dict.fromkeys((*family.components, *family.prefixes.values())) if name in present)
    is_checkpoint = len(there) > 1
    return Contents(
        kind="checkpoint" if is_checkpoint else family.denoiser,
        layout=layout,
        family=family.name,
        cross_attention_dim=_width(shapes, prefix),
        input_channels=first[1] if len(first) == _CONVOLUTION else None,
        components=there if is_checkpoint else (),
        missing=tuple(name for name in family.components if name not in there) if is_checkpoint else (),
    )


def _width(shapes: Shapes, prefix: str) -> int | None:
    for name, shape in shapes.items():
        if name.endswith(_CROSS_ATTENTION) and name.startswith(prefix) and len(shape) == _LINEAR:
            return shape[1]
    return None


def _part(tensors: Tensors, families: Iterable[Family]) -> Contents | None:
    """Identify a VAE or text encoders under the names that they have in whole checkpoints, and nothing beside them."""
    names = [name for name in tensors if not is_harmless(name)]
    owners = []
    for family in families:
        prefixes = tuple(prefix for prefix, component in family.prefixes.items() if "text_encoder" in component)
        if prefixes and names and all(name.startswith(prefixes) for name in names):
            owners.append(family.name)
    if owners:
        return Contents(kind="text-encoder", layout="ldm", family=owners[0] if len(owners) == 1 else None)
    for prefix in (*VAE_PREFIXES, ""):
        for layout, blocks in _VAES.items():
            has_decoder = f"{prefix}decoder.conv_in.weight" in tensors and _any(tensors, prefix + blocks)
            if has_decoder and all(name.startswith(prefix) for name in names):
                return Contents(kind="vae", layout=layout)
    return None


def _tiny_vae(tensors: Tensors) -> Contents | None:
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if (found := tiny_vae_halves(shapes)) is None:
        return None
    layout, halves = found
    decoder = tiny_vae_layers(shapes, layout).get("decoder.layers.0.weight")
    return Contents(kind="tiny-vae", layout=layout, components=halves, input_channels=decoder[1] if decoder else None)


def _upscaler(tensors: Tensors) -> Contents | None:
    for layout, (first, mark) in _UPSCALERS.items():
        is_convolution = first in tensors and len(tensors[first].shape) == _CONVOLUTION
        if is_convolution and any(map(mark.fullmatch, tensors)):
            return Contents(kind="upscaler", layout=layout)
    return None


def _text_encoder(tensors: Tensors) -> Contents | None:
    # transformers 5 writes these names with or without their first part, depending on the class.
    if _any(tensors, "text_model.embeddings.token_embedding.") or _any(tensors, "embeddings.token_embedding."):
        return Contents(kind="text-encoder", layout="transformers")
    if "token_embedding.weight" in tensors and _any(tensors, "transformer.resblocks.0.attn."):
        return Contents(kind="text-encoder", layout="open_clip")
    return None


def _embedding(tensors: Tensors, families: Iterable[Family]) -> Contents | None:
    """Identify a textual inversion: vectors for a word, each as wide as the text encoder."""
    widths = {name: tensor.shape[-1] for name, tensor in tensors.items() if 1 <= len(tensor.shape) <= _LINEAR}
    if widths.keys() == tensors.keys() == {"clip_l", "clip_g"}:
        return _embedding_of("clip_l and clip_g", sum(widths.values()), families, encoders=2)
    name = next((name for name in widths if name == "emb_params" or name.startswith("string_to_param.")), None)
    if name is not None:
        return _embedding_of("a1111", widths[name], families, encoders=1)
    if len(tensors) == len(widths) == 1:
        (width,) = widths.values()
        return _embedding_of("diffusers", width, families, encoders=1)
    return None


def _embedding_of(layout: str, width: int, families: Iterable[Family], encoders: int) -> Contents:
    names = (
        family.name
        for family in families
        if width in family.prompt_widths and sum("text_encoder" in name for name in family.components) == encoders
    )
    return Contents(kind="embedding", layout=layout, family=next(names, None), cross_attention_dim=width)


def _any(names: Collection[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)
