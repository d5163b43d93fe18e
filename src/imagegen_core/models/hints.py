"""Advice on what to install. This is the core's only list of families: the plugins declare the ones they draw."""

from __future__ import annotations

from collections.abc import Iterable

NO_BACKEND = "No backend is installed: pip install imagegen-sdxl or imagegen-sd15"
CPU_BACKEND = ("openvino", "imagegen-openvino")
"""The backend to recommend for a CPU, and its distribution."""
NO_PLUGIN = "No plugin is installed: pip install imagegen-sdxl, and imagegen-demo for a first picture"
DEMO_BACKEND = "imagegen-sdxl"
"""The distribution that draws with ``imagegen-demo``."""
EXAMPLE_FAMILY = {
    "family_title": "PixArt-Sigma",
    "pipeline": "PixArtSigmaPipeline",
    "network": "PixArtTransformer2DModel",
    "paper": "https://arxiv.org/abs/2403.04692",
}
"""The family that a new project of the kind ``family`` draws with, until its author changes it."""
USE_SDXL = ("sdxl", "imagegen-sdxl")
"""The family that the setting ``use_sdxl`` asks for, and its distribution."""

TINY_VAES = "taesd, taesdxl, taesd3 or taef1"
"""The tiny autoencoders with published weights."""
TINY_VAES_OF_CHANNELS = {4: "taesd for Stable Diffusion 1.x and 2.x, or taesdxl", 16: "taesd3, or taef1 for FLUX.1"}
"""The tiny autoencoders for a number of latent channels."""

# The distribution for a folder, by the _class_name in its model_index.json.
_PIPELINES = {
    "StableDiffusionPipeline": "imagegen-sd15",
    "LatentConsistencyModelPipeline": "imagegen-sd15",
    "StableDiffusionXLPipeline": "imagegen-sdxl",
    "StableDiffusion3Pipeline": "imagegen-sd3",
    "FluxPipeline": "imagegen-flux",
}
_OTHER_PIPELINES = "imagegen-diffusers"
# A part of a tensor's name that only one family has, the family's title, and the distribution for it.
_TENSORS = (
    ("conditioner.embedders.", "Stable Diffusion XL", "imagegen-sdxl"),
    ("add_embedding.linear_1.", "Stable Diffusion XL", "imagegen-sdxl"),
    ("cond_stage_model.", "Stable Diffusion 1.x or 2.x", "imagegen-sd15"),
    ("joint_blocks.", "Stable Diffusion 3", "imagegen-sd3"),
    ("double_blocks.", "FLUX.1", "imagegen-flux"),
    ("single_transformer_blocks.", "FLUX.1", "imagegen-flux"),
)


def for_pipeline(class_name: str) -> str:
    """Return the distribution that draws with a folder of an undeclared family.

    Args:
        class_name: The ``_class_name`` in its ``model_index.json``.
    """
    return _PIPELINES.get(class_name, _OTHER_PIPELINES)


def for_tensors(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the title and the distribution of an undeclared family, by the tensors of a file; None if unknown."""
    names = list(names)
    for part, title, package in _TENSORS:
        if any(name.startswith(part) or f".{part}" in name for name in names):
            return title, package
    return None
