"""What SDXL does its own way: two text encoders, a pooled prompt, and time ids that tell it the size."""

from __future__ import annotations

from typing import ClassVar

import torch

from imagegen_core import Size
from imagegen_core.diffusion import Conditioning, DiffusionWorker, encode_text
from imagegen_sdxl.plugin import BACKEND


class DiffusersSDXLCudaWorker(DiffusionWorker):
    """Draws with a Stable Diffusion XL checkpoint (https://arxiv.org/abs/2307.01952)."""

    backend = BACKEND
    pipeline_class = "StableDiffusionXLPipeline"
    pipeline_options: ClassVar = {"add_watermarker": False}

    def encode(self, prompt: str) -> Conditioning:
        """Both encoders' penultimate hidden states side by side, and the second one's pooled projection."""
        first = encode_text(self.pipe.tokenizer, self.pipe.text_encoder, prompt)
        second = encode_text(self.pipe.tokenizer_2, self.pipe.text_encoder_2, prompt)
        tokens = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        return Conditioning(tokens, {"text_embeds": second.text_embeds})

    def encode_absent(self) -> Conditioning:
        """Zeros for checkpoints trained so, as ``force_zeros_for_empty_prompt`` in their index says."""
        absent = super().encode_absent()
        if not self.pipe.config.force_zeros_for_empty_prompt:
            return absent
        zeros = {name: torch.zeros_like(value) for name, value in absent.added.items()}
        return Conditioning(torch.zeros_like(absent.tokens), zeros)

    def sized(self, conditioning: Conditioning, size: Size) -> Conditioning:
        """Add the time ids: original size, crop corner and target size, each as height, width."""
        ids = [size.height, size.width, 0, 0, size.height, size.width]
        time_ids = torch.tensor([ids], device=self.device, dtype=self.dtype)
        return Conditioning(conditioning.tokens, {**conditioning.added, "time_ids": time_ids})
