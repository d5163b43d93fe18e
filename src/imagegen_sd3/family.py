"""Stable Diffusion 3 and 3.5: the parts of its checkpoints, and their marks in files and folders."""

from __future__ import annotations

from imagegen_core import Family
from imagegen_sd3.original_names import original_names

SD3 = Family(
    name="sd3",
    title="Stable Diffusion 3",
    package="imagegen-sd3",
    components=("transformer", "vae", "text_encoder", "text_encoder_2"),  # it also draws without T5
    pipelines=("StableDiffusion3Pipeline",),
    prefixes={
        "model.diffusion_model.": "transformer",
        "first_stage_model.": "vae",
        "vae.": "vae",
        "text_encoders.clip_l.transformer.": "text_encoder",
        "text_encoders.clip_g.transformer.": "text_encoder_2",
        "text_encoders.t5xxl.transformer.": "text_encoder_3",
    },
    layouts={
        "original": ("x_embedder.proj.weight", "final_layer.linear.weight", "joint_blocks.0.context_block."),
        "diffusers": ("pos_embed.proj.weight", "proj_out.weight", "transformer_blocks.0.attn.add_q_proj.weight"),
    },
    original_names=original_names,
    lora_marks=(r"(^|[._])joint_blocks[._]\d",),
    latent_channels=16,
    default_sampler="checkpoint",
)
