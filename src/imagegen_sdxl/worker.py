"""The SDXL worker: two text encoders, a pooled prompt, and time ids for the size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from imagegen_core import ResolvedRequest
from imagegen_core.diffusion import Conditioning, Parts, UNetWorker, completed, encode_text_in_parts
from imagegen_sdxl.conditions import SCORES, check_conditions
from imagegen_sdxl.plugin import BACKEND


class DiffusersSDXLCudaWorker(UNetWorker):
    """Draws with a Stable Diffusion XL checkpoint (https://arxiv.org/abs/2307.01952)."""

    backend = BACKEND
    pipeline_class = "StableDiffusionXLPipeline"
    configs = Path(__file__).parent / "configs"
    pipeline_options: ClassVar = {"add_watermarker": False}
    # https://research.nvidia.com/labs/toronto-ai/AlignYourSteps/howto.html
    aligned_sigmas = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)

    def encode(self, prompt: str, clip_skip: int) -> Conditioning:
        """Join both encoders' penultimate hidden states by width, and add the second encoder's pooled projection."""
        return completed(self.encode_in_parts(prompt, clip_skip))

    def encode_in_parts(self, prompt: str, clip_skip: int) -> Parts[Conditioning]:
        """Encode as `encode` does, one chunk of one encoder at a time."""

        def hidden(output: Any) -> torch.Tensor:
            return output.hidden_states[-2 - clip_skip]  # type: ignore[no-any-return]

        pipe, (first, second) = self.pipe, map(self.embeddings.of, ("text_encoder", "text_encoder_2"))
        narrow = yield from encode_text_in_parts(pipe.tokenizer, pipe.text_encoder, prompt, hidden, first)
        yield
        wide = yield from encode_text_in_parts(pipe.tokenizer_2, pipe.text_encoder_2, prompt, hidden, second)
        return Conditioning(torch.cat([narrow.tokens, wide.tokens], dim=-1), {"text_embeds": wide.pooled})

    def encode_absent(self, clip_skip: int) -> Conditioning:
        """Return zeros if the checkpoint's index sets ``force_zeros_for_empty_prompt``, else the empty prompt."""
        absent = super().encode_absent(clip_skip)
        return absent.zeros() if self.pipe.config.force_zeros_for_empty_prompt else absent

    def check(self, request: ResolvedRequest) -> None:
        """Check as the base class does, and refuse aesthetic scores, unless a refiner follows."""
        super().check(request)
        if request.refiner is None:
            check_conditions(request, SCORES, "SDXL's refiner")

    def with_request(self, conditioning: Conditioning, request: ResolvedRequest) -> Conditioning:
        """Add the time ids: original size, crop corner and target size, each as height, width."""
        return self._with_time_ids(conditioning, request, request.micro_conditioning.time_ids(request.size))

    def with_negative_request(self, conditioning: Conditioning, request: ResolvedRequest) -> Conditioning:
        """Add the negative prompt's time ids."""
        ids = request.micro_conditioning.time_ids(request.size, negative=True)
        return self._with_time_ids(conditioning, request, ids)

    def _with_time_ids(self, conditioning: Conditioning, request: ResolvedRequest, ids: Sequence[int]) -> Conditioning:
        conditioning = super().with_request(conditioning, request)
        return conditioning.with_added(time_ids=torch.tensor([ids], device=self.device, dtype=self.dtype))
