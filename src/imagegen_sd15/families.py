"""The families of Stable Diffusion 1.x and 2.x: one architecture, with two text encoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imagegen_core import Family

_SD15_NAME, _SD2_NAME = "sd15", "sd2"
# The widths of the released UNets' prompt embeddings. Tiny and custom models are told by their other marks.
_WIDTHS = {768: _SD15_NAME, 1024: _SD2_NAME}
_CLIP, _OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
# SDXL's text-time embedding. SD2's unCLIP has one too, together with SD2's text encoder.
_TEXT_TIME = ("label_emb.0.0.weight", "add_embedding.linear_1.weight")
_UNET = {
    # A UNet is known by its first layer, its last layer and a block of its second half. A ControlNet lacks that block.
    "ldm": ("input_blocks.0.0.weight", "out.2.weight", "output_blocks.0.0."),
    "diffusers": ("conv_in.weight", "conv_out.weight", "up_blocks.0."),
}
_PREFIXES = {
    "model.diffusion_model.": "unet",
    "diffusion_model.": "unet",
    "first_stage_model.": "vae",
    "vae.": "vae",
    _CLIP: "text_encoder",
    _OPEN_CLIP: "text_encoder",
}
_PIPELINE = "StableDiffusionPipeline"
_PIPELINES = (_PIPELINE, "StableDiffusionInpaintPipeline", "StableDiffusionInstructPix2PixPipeline")


def _file_family(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    encoders = {_CLIP: _SD15_NAME, _OPEN_CLIP: _SD2_NAME}
    by_encoder = next((encoders[prefix] for name in shapes for prefix in encoders if name.startswith(prefix)), None)
    if by_encoder is None and any(name.endswith(_TEXT_TIME) for name in shapes):
        return None
    matrices = (shape for name, shape in shapes.items() if name.endswith("attn2.to_k.weight") and len(shape) > 1)
    return _WIDTHS.get(next((shape[1] for shape in matrices), 0), by_encoder)


def _folder_family(index: Mapping[str, Any], unet: Mapping[str, Any]) -> str | None:
    """Return the family of a folder, for pipelines of any class: the UNet's config decides."""
    if unet.get("addition_embed_type") == "text_time":
        return None
    by_class = _SD15_NAME if index.get("_class_name") in _PIPELINES else None
    width = unet.get("cross_attention_dim")
    return _WIDTHS.get(width, by_class) if isinstance(width, int) else by_class


SD15 = Family(
    name=_SD15_NAME,
    title="Stable Diffusion 1.x",
    package="imagegen-sd15",
    components=("unet", "vae", "text_encoder"),
    pipelines=(*_PIPELINES, "LatentConsistencyModelPipeline"),
    prefixes=_PREFIXES,
    layouts=_UNET,
    matches_file=lambda shapes: _file_family(shapes) == _SD15_NAME,
    matches_folder=lambda index, unet: _folder_family(index, unet) == _SD15_NAME,
    prompt_widths=(768,),
)
SD2 = Family(
    name=_SD2_NAME,
    title="Stable Diffusion 2.x",
    package="imagegen-sd15",
    components=("unet", "vae", "text_encoder"),
    pipelines=_PIPELINES,
    prefixes=_PREFIXES,
    layouts=_UNET,
    matches_file=lambda shapes: _file_family(shapes) == _SD2_NAME,
    matches_folder=lambda index, unet: _folder_family(index, unet) == _SD2_NAME,
    prompt_widths=(1024,),
)
