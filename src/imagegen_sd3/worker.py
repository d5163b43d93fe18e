"""The Stable Diffusion 3 worker: two CLIP text encoders, and T5 if the checkpoint has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imagegen_core import ResolvedRequest
from imagegen_core.diffusion import (
    Conditioning,
    DiffusionWorker,
    NetworkInputs,
    Parts,
    TextEmbedding,
    check_clip_skip,
    check_multiples,
    check_prompt_length,
    check_t5_length,
    completed,
    encode_t5,
    encode_text_in_parts,
    load_components,
    t5_length,
)
from imagegen_sd3.plugin import BACKEND
from imagegen_sd3.transformer import transformer_config

_CLIP_TOKENS, _T5_TOKENS = 77, 256  # the two parts of an encoded chunk


class StableDiffusion3Worker(DiffusionWorker):
    """Draws with a Stable Diffusion 3 or 3.5 checkpoint (https://arxiv.org/abs/2403.03206)."""

    backend = BACKEND
    pipeline_class = "StableDiffusion3Pipeline"
    optional_components = ("text_encoder_3", "tokenizer_3")
    embedding_encoders = ("text_encoder", "text_encoder_2")
    configs = Path(__file__).parent / "configs"

    def check(self, request: ResolvedRequest) -> None:
        """Check the size, the prompts' weights and lengths, and that `clip_skip` leaves a layer.

        Raises:
            InvalidRequestError: One of them is out of range.
        """
        config = self.network.config
        pixels = config.patch_size * self.pipe.vae_scale_factor
        check_multiples(request.size, pixels, most=pixels * config.pos_embed_max_size)
        for encoder in (self.pipe.text_encoder, self.pipe.text_encoder_2):
            check_clip_skip(encoder, request.clip_skip)
        most = self.settings.max_prompt_chunks
        for field, prompt in self.prompts(request).items():
            check_prompt_length(self.pipe.tokenizer, prompt, field, most, self.embeddings.of("text_encoder"))
            if self.pipe.tokenizer_3 is not None:
                check_t5_length(self.pipe.tokenizer_3, prompt, field, most * _T5_TOKENS)

    def encode(self, prompt: str, clip_skip: int) -> Conditioning:
        """Join CLIP's and T5's hidden states by length, for each chunk 77 and 256 tokens, and add CLIP's projections.

        CLIP's states are the penultimate states of both encoders, joined by width and padded to T5's width.
        """
        return completed(self.encode_in_parts(prompt, clip_skip))

    def encode_in_parts(self, prompt: str, clip_skip: int) -> Parts[Conditioning]:
        """Encode as `encode` does, one chunk of one encoder at a time."""
        clip = yield from self._encode_clip(prompt, clip_skip)
        chunks = clip.tokens.shape[1] // _CLIP_TOKENS
        if self.pipe.tokenizer_3 is not None:
            chunks = max(chunks, -(-t5_length(self.pipe.tokenizer_3, prompt) // _T5_TOKENS))
        tokens = [clip.tokens]
        while sum(part.shape[1] for part in tokens) < chunks * _CLIP_TOKENS:
            tokens.append((yield from self._encode_clip("", clip_skip)).tokens)
        yield
        t5 = self._encode_t5(prompt, chunks * _T5_TOKENS)
        joined = torch.cat(tokens, dim=1)
        joined = torch.nn.functional.pad(joined, (0, t5.shape[-1] - joined.shape[-1]))
        return Conditioning(torch.cat([joined, t5], dim=1), {"pooled_projections": clip.pooled})

    def predict(self, inputs: NetworkInputs) -> Tensor:
        """Call the transformer."""
        prediction: Tensor = inputs.network(
            hidden_states=inputs.latents,
            timestep=inputs.timesteps,
            encoder_hidden_states=inputs.conditioning.tokens,
            pooled_projections=inputs.conditioning.added["pooled_projections"],
            return_dict=False,
            **inputs.options,
        )[0]
        return prediction

    def load_file(self, path: Path, vae: Any | None) -> dict[str, Any]:
        """Load the components from a file in the original layout, or from a file of a transformer alone.

        A file without T5 draws without it, unless `Settings.base_model` supplies it. CLIP's first encoder projects its
        pooled state by the identity, so its class needs no projection.
        """
        return load_components(
            path,
            self.dtype,
            family=self.family,
            denoiser_config=transformer_config,
            configs=self.configs,
            base=self.settings.base_model,
            vae=vae,
            storage=self.memory_plan.storage,
            optional=self.optional_components,
            classes={"text_encoder": ("transformers", "CLIPTextModel")},
        )

    def _encode_clip(self, prompt: str, clip_skip: int) -> Parts[TextEmbedding]:
        def hidden(output: Any) -> Tensor:
            return output.hidden_states[-2 - clip_skip]  # type: ignore[no-any-return]

        pipe, (first, second) = self.pipe, map(self.embeddings.of, self.embedding_encoders)
        narrow = yield from encode_text_in_parts(pipe.tokenizer, pipe.text_encoder, prompt, hidden, first)
        yield
        wide = yield from encode_text_in_parts(pipe.tokenizer_2, pipe.text_encoder_2, prompt, hidden, second)
        return TextEmbedding(
            torch.cat([narrow.tokens, wide.tokens], dim=-1), torch.cat([narrow.pooled, wide.pooled], dim=-1)
        )

    def _encode_t5(self, prompt: str, length: int) -> Tensor:
        """Return T5's hidden states, or zeros for a checkpoint without T5."""
        if self.pipe.text_encoder_3 is None:
            return torch.zeros(1, length, self.network.config.joint_attention_dim, device=self.device, dtype=self.dtype)
        return encode_t5(self.pipe.tokenizer_3, self.pipe.text_encoder_3, prompt, length).to(self.dtype)
