"""Tiny random checkpoints in the real layout: diffusers' classes, random weights, a tokenizer of single letters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

_START, _END = "<|startoftext|>", "<|endoftext|>"
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:;!?-'\"()"
_TEXT_WIDTH = 32


def save_sdxl(folder: Path, **unet: Any) -> Path:
    """A tiny SDXL checkpoint; `unet` overrides its UNet's configuration."""
    torch.manual_seed(1)
    StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config()),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(projection_dim=48)),
        tokenizer=_tokenizer(folder.with_name(folder.name + "-tokenizer")),
        tokenizer_2=_tokenizer(folder.with_name(folder.name + "-tokenizer")),
        unet=_unet(
            cross_attention_dim=2 * _TEXT_WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 48,
            **unet,
        ),
        scheduler=_scheduler(),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def save_sd15(folder: Path, **unet: Any) -> Path:
    """A tiny SD1.5 checkpoint; `unet` overrides its UNet's configuration."""
    torch.manual_seed(2)
    StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config()),
        tokenizer=_tokenizer(folder.with_name(folder.name + "-tokenizer")),
        unet=_unet(cross_attention_dim=_TEXT_WIDTH, **unet),
        scheduler=_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def _unet(**config: Any) -> UNet2DConditionModel:
    defaults: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 8,
        "use_linear_projection": True,
    }
    return UNet2DConditionModel(**{**defaults, **config})


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=64,
        scaling_factor=0.18215,
    )


def _scheduler() -> EulerDiscreteScheduler:
    """What SD and SDXL checkpoints ship: workers replace it by LCM's."""
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="leading",
    )


def _text_config(**config: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=2 * len(_LETTERS) + 2,
        hidden_size=_TEXT_WIDTH,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        bos_token_id=2 * len(_LETTERS),
        eos_token_id=2 * len(_LETTERS) + 1,
        pad_token_id=2 * len(_LETTERS) + 1,
        **config,
    )


def _tokenizer(folder: Path) -> CLIPTokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = [*_LETTERS, *(f"{letter}</w>" for letter in _LETTERS), _START, _END]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(
        folder, bos_token=_START, eos_token=_END, unk_token=_END, pad_token=_END, model_max_length=77
    )
