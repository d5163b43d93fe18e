"""The families of checkpoints, and their identifying marks."""

from __future__ import annotations

# Cross-attention widths of the released models. Tiny and custom models are identified by their other marks.
WIDTHS = {768: "sd15", 1024: "sd2", 1280: "sdxl-refiner", 2048: "sdxl"}
# The distribution with the backend for a family, named in messages when no installed backend loads it.
PACKAGES = {"sd15": "imagegen-sd15", "sd2": "imagegen-sd15", "sdxl": "imagegen-sdxl"}
# Text encoders in single-file checkpoints: prefix, component, and the only family with this component there.
TEXT_ENCODERS = (
    ("cond_stage_model.transformer.", "text_encoder", "sd15"),
    ("cond_stage_model.model.", "text_encoder", "sd2"),
    ("conditioner.embedders.0.transformer.", "text_encoder", "sdxl"),
    ("conditioner.embedders.1.model.", "text_encoder_2", "sdxl"),
    ("conditioner.embedders.0.model.", "text_encoder_2", "sdxl-refiner"),
)
# The components that a family needs to draw.
COMPONENTS = {
    "sd15": ("unet", "vae", "text_encoder"),
    "sd2": ("unet", "vae", "text_encoder"),
    "sdxl": ("unet", "vae", "text_encoder", "text_encoder_2"),
    "sdxl-refiner": ("unet", "vae", "text_encoder_2"),
}


def family_of(width: int | None, *, text_time: bool, otherwise: str | None) -> str | None:
    """Return the family of a UNet.

    Args:
        width: Its cross-attention width.
        text_time: Whether it has SDXL's text-time embeddings, which mark SDXL at any width.
        otherwise: The family if neither of the two decides.
    """
    family = WIDTHS.get(width) if width is not None else None
    if text_time:
        return "sdxl-refiner" if "sdxl-refiner" in (family, otherwise) else "sdxl"
    return family if family in ("sd15", "sd2") else otherwise


def how_to_get(family: str) -> str:
    """Say how to get a backend for a family."""
    if family in PACKAGES:
        return f"pip install {PACKAGES[family]}"
    return "no package of imagegen's own loads it, so install a plugin that does"
