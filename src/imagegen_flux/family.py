"""FLUX.1, dev and schnell: the parts of its checkpoints, and their marks in files and folders."""

from __future__ import annotations

from imagegen_core import Family
from imagegen_flux.original_names import original_names

FLUX = Family(
    name="flux",
    title="FLUX.1",
    package="imagegen-flux",
    components=("transformer", "vae", "text_encoder", "text_encoder_2"),
    pipelines=("FluxPipeline",),
    prefixes={
        "model.diffusion_model.": "transformer",
        "first_stage_model.": "vae",
        "vae.": "vae",
        "text_encoders.clip_l.transformer.": "text_encoder",
        "text_encoders.t5xxl.transformer.": "text_encoder_2",
    },
    layouts={
        "original": ("img_in.weight", "final_layer.linear.weight", "double_blocks.0.img_mod.", "vector_in."),
        "diffusers": ("x_embedder.weight", "proj_out.weight", "single_transformer_blocks.0.norm.linear.weight"),
    },
    original_names=original_names,
    lora_marks=(r"(^|[._])(double|single)_blocks[._]\d", r"(^|[._])single_transformer_blocks[._]\d"),
    latent_channels=16,
    default_sampler="checkpoint",
)
