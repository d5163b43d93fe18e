"""The Stable Diffusion 1.x and 2.x worker: one text encoder, and no conditions except the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from imagegen_core import InvalidRequestError, MicroConditioning, ResolvedRequest
from imagegen_core.diffusion import Conditioning, Parts, UNetWorker, completed, encode_text_in_parts
from imagegen_sd15.plugin import BACKEND
from imagegen_sd15.prediction import prediction_of_weights


class DiffusersCudaWorker(UNetWorker):
    """Draws with a Stable Diffusion 1.x or 2.x checkpoint (https://arxiv.org/abs/2112.10752)."""

    backend = BACKEND
    pipeline_class = "StableDiffusionPipeline"
    configs = Path(__file__).parent / "configs"
    pipeline_options: ClassVar = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}

    def check(self, request: ResolvedRequest) -> None:
        """Check what every family checks, and refuse SDXL's micro-conditioning.

        Raises:
            InvalidRequestError: A value is out of range, or the request has micro-conditioning.
        """
        super().check(request)
        if request.micro_conditioning != MicroConditioning():
            raise InvalidRequestError(
                "Invalid micro_conditioning: Stable Diffusion 1.x and 2.x have none; leave it out", "micro_conditioning"
            )

    def encode(self, prompt: str, clip_skip: int) -> Conditioning:
        """Return the text encoder's last hidden state, or an earlier one with `clip_skip`, after the final norm."""
        return completed(self.encode_in_parts(prompt, clip_skip))

    def encode_in_parts(self, prompt: str, clip_skip: int) -> Parts[Conditioning]:
        """Encode as `encode` does, one chunk at a time."""

        def hidden(output: Any) -> torch.Tensor:
            if clip_skip == 0:
                return output.last_hidden_state  # type: ignore[no-any-return]
            encoder = self.pipe.text_encoder
            model = getattr(encoder, "text_model", encoder)  # transformers before 5 nests it
            return model.final_layer_norm(output.hidden_states[-1 - clip_skip])  # type: ignore[no-any-return]

        pipe, embeddings = self.pipe, self.embeddings.of("text_encoder")
        text = yield from encode_text_in_parts(pipe.tokenizer, pipe.text_encoder, prompt, hidden, embeddings)
        return Conditioning(text.tokens)

    def prediction_of_weights(self, state: Mapping[str, torch.Tensor]) -> Literal["v", "epsilon"] | None:
        """Tell the two checkpoints of Stable Diffusion 2 apart by a weight."""
        return prediction_of_weights(state)
