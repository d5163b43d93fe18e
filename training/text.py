"""Tokens of prompts, and a module of the UNet and its text encoders for training."""

from __future__ import annotations

import torch
from diffusers import StableDiffusionXLPipeline
from transformers import CLIPTokenizer

TIME_IDS = (256.0, 256.0, 0.0, 0.0, 256.0, 256.0)
"""Original size, crop and target size, as the SDXL pipeline passes them at the native size."""


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Return token ids [N, 77]."""
    return torch.tensor(tokenizer(captions, padding="max_length", max_length=77, truncation=True).input_ids)


class Denoiser(torch.nn.Module):
    """The three networks that learn together, without the VAE."""

    def __init__(self, pipeline: StableDiffusionXLPipeline) -> None:
        """Share the networks of `pipeline`."""
        super().__init__()
        self.text_encoder = pipeline.text_encoder
        self.text_encoder_2 = pipeline.text_encoder_2
        self.unet = pipeline.unet

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return the predicted v [N, 4, H, W] for timesteps [N] and token ids [N, 77]."""
        first = self.text_encoder(tokens, output_hidden_states=True).hidden_states[-2]
        second = self.text_encoder_2(tokens, output_hidden_states=True)
        condition = {
            "text_embeds": second.text_embeds,
            "time_ids": torch.tensor(TIME_IDS).repeat(len(noisy), 1),
        }
        states = torch.cat([first, second.hidden_states[-2]], -1)
        return self.unet(noisy, timesteps, states, added_cond_kwargs=condition).sample
