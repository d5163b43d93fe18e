"""The networks of the released families, made from their configs without weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

import imagegen_sd15
import imagegen_sdxl


def released(family: str) -> SimpleNamespace:
    """Return the networks of ``sd15`` or ``sdxl`` in fp16, on the meta device."""
    is_sdxl = family == "sdxl"
    configs = Path(*(imagegen_sdxl if is_sdxl else imagegen_sd15).__path__) / "configs"
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(configs / "unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(configs / "vae"))
        texts = [CLIPTextModel(CLIPTextConfig.from_pretrained(configs / "text_encoder"))]
        if is_sdxl:
            texts.append(CLIPTextModelWithProjection(CLIPTextConfig.from_pretrained(configs / "text_encoder_2")))
    return SimpleNamespace(unet=unet.half(), vae=vae.half(), texts=[text.half() for text in texts], vae_scale_factor=8)
