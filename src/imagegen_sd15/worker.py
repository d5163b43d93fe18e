"""What Stable Diffusion 1.5 does its own way: one text encoder, and nothing told beside its prompt."""

from __future__ import annotations

from typing import ClassVar

from imagegen_core.diffusion import Conditioning, DiffusionWorker, encode_text
from imagegen_sd15.plugin import BACKEND


class DiffusersCudaWorker(DiffusionWorker):
    """Draws with a Stable Diffusion 1.x or 2.x checkpoint (https://arxiv.org/abs/2112.10752)."""

    backend = BACKEND
    pipeline_class = "StableDiffusionPipeline"
    pipeline_options: ClassVar = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}

    def encode(self, prompt: str) -> Conditioning:
        """The text encoder's last hidden state, after its final norm."""
        return Conditioning(encode_text(self.pipe.tokenizer, self.pipe.text_encoder, prompt).last_hidden_state)
