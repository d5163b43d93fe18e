"""Prompts to embeddings, and the UNet with its text encoders as one module to train."""

from __future__ import annotations

import torch
from diffusers import StableDiffusionXLPipeline
from transformers import CLIPTokenizer

TIME_IDS = (256.0, 256.0, 0.0, 0.0, 256.0, 256.0)
"""Original size, crop and target size, as the SDXL pipeline gives them at the native size."""


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Token ids [N, 77]."""
    return torch.tensor(tokenizer(captions, padding="max_length", max_length=77, truncation=True).input_ids)


class Denoiser(torch.nn.Module):
    """The three networks that learn together; the VAE is not among them."""

    def __init__(self, pipeline: StableDiffusionXLPipeline) -> None:
        """Take the networks of `pipeline`, which this module then shares."""
        super().__init__()
        self.text_encoder = pipeline.text_encoder
        self.text_encoder_2 = pipeline.text_encoder_2
        self.unet = pipeline.unet

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The predicted v [N, 4, H, W], for timesteps [N] and token ids [N, 77]."""
        first = self.text_encoder(tokens, output_hidden_states=True).hidden_states[-2]
        second = self.text_encoder_2(tokens, output_hidden_states=True)
        condition = {
            "text_embeds": second.text_embeds,
            "time_ids": torch.tensor(TIME_IDS).repeat(len(noisy), 1),
        }
        states = torch.cat([first, second.hidden_states[-2]], -1)
        return self.unet(noisy, timesteps, states, added_cond_kwargs=condition).sample
