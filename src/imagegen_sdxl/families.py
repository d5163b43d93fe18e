"""The families of Stable Diffusion XL: the base architecture, and its refiner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imagegen_core import Family

_SDXL_NAME, _REFINER_NAME = "sdxl", "sdxl-refiner"
_REFINER_WIDTH = 1280  # of the released refiner's prompt embeddings
_REFINER_ENCODER = "conditioner.embedders.0.model."
# SD2's unCLIP also has text-time embeddings, together with SD2's text encoder.
_OTHER_ENCODERS = ("cond_stage_model.transformer.", "cond_stage_model.model.")
_TEXT_TIME = ("label_emb.0.0.weight", "add_embedding.linear_1.weight")
_UNET = {
    # A UNet is known by its first layer, its last layer and a block of its second half. A ControlNet lacks that block.
    "ldm": ("input_blocks.0.0.weight", "out.2.weight", "output_blocks.0.0."),
    "diffusers": ("conv_in.weight", "conv_out.weight", "up_blocks.0."),
}
_PARTS = {
    "model.diffusion_model.": "unet",
    "diffusion_model.": "unet",
    "first_stage_model.": "vae",
    "vae.": "vae",
}
_ABSENT = [None, None]  # a component that a pipeline does not have


def _file_family(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Return the family of a UNet with text-time embeddings, of any width."""
    if not any(name.endswith(_TEXT_TIME) for name in shapes):
        return None
    if any(name.startswith(_OTHER_ENCODERS) for name in shapes):
        return None
    matrices = (shape for name, shape in shapes.items() if name.endswith("attn2.to_k.weight") and len(shape) > 1)
    is_refiner = next((shape[1] for shape in matrices), 0) == _REFINER_WIDTH
    is_refiner = is_refiner or any(name.startswith(_REFINER_ENCODER) for name in shapes)
    return _REFINER_NAME if is_refiner else _SDXL_NAME


def _folder_family(index: Mapping[str, Any], unet: Mapping[str, Any]) -> str | None:
    """Return the family of a folder, for pipelines of any class: the UNet's config decides."""
    if unet.get("addition_embed_type") != "text_time":
        return None
    has_second_encoder_alone = index.get("text_encoder") == _ABSENT and index.get("text_encoder_2", _ABSENT) != _ABSENT
    is_refiner = has_second_encoder_alone or unet.get("cross_attention_dim") == _REFINER_WIDTH
    return _REFINER_NAME if is_refiner else _SDXL_NAME


SDXL = Family(
    name=_SDXL_NAME,
    title="Stable Diffusion XL",
    package="imagegen-sdxl",
    components=("unet", "vae", "text_encoder", "text_encoder_2"),
    pipelines=(
        "StableDiffusionXLPipeline",
        "StableDiffusionXLInpaintPipeline",
        "StableDiffusionXLInstructPix2PixPipeline",
    ),
    prefixes={
        **_PARTS,
        "conditioner.embedders.0.transformer.": "text_encoder",
        "conditioner.embedders.1.model.": "text_encoder_2",
    },
    layouts=_UNET,
    matches_file=lambda shapes: _file_family(shapes) == _SDXL_NAME,
    matches_folder=lambda index, unet: _folder_family(index, unet) == _SDXL_NAME,
    prompt_widths=(2048,),
    # A second text encoder, and attention blocks with several transformer layers.
    lora_marks=(
        r"^(lora_te2_|text_encoder_2\.)",
        r"(attentions[._]\d+|(input|output)_blocks_\d+_1|middle_block_1)[._]transformer_blocks[._][1-9]",
    ),
)
REFINER = Family(
    name=_REFINER_NAME,
    title="Stable Diffusion XL's refiner",
    package="imagegen-sdxl",
    components=("unet", "vae", "text_encoder_2"),
    prefixes={**_PARTS, _REFINER_ENCODER: "text_encoder_2"},
    layouts=_UNET,
    matches_file=lambda shapes: _file_family(shapes) == _REFINER_NAME,
    matches_folder=lambda index, unet: _folder_family(index, unet) == _REFINER_NAME,
    prompt_widths=(_REFINER_WIDTH,),
)
