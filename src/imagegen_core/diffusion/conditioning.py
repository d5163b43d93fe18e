"""What the UNet is told about the picture, beside the latents and the timestep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from imagegen_core.diffusion.prompts import Chunk, chunks, parse


@dataclass(frozen=True, slots=True)
class Conditioning:
    """One prompt as the UNet takes it.

    Attributes:
        tokens: Embedded prompt [1, tokens, width] for cross-attention.
        added: The UNet's ``added_cond_kwargs``, each [1, ...]; empty for SD1.5.
    """

    tokens: Tensor
    added: Mapping[str, Tensor] = field(default_factory=dict)

    def lengthened(self, filler: Conditioning, tokens: int) -> Conditioning:
        """This prompt followed by as many of `filler`'s chunks as make it `tokens` long."""
        missing = (tokens - self.tokens.shape[1]) // filler.tokens.shape[1]
        return replace(self, tokens=torch.cat([self.tokens, *[filler.tokens] * missing], dim=1))


@dataclass(frozen=True, slots=True)
class TextEmbedding:
    """A prompt as one text encoder reads it.

    Attributes:
        tokens: Hidden states [1, 77 for each chunk, width].
        pooled: The first chunk's projection [1, width], or None for encoders without one.
    """

    tokens: Tensor
    pooled: Any


def encode_text(tokenizer: Any, text_encoder: Any, prompt: str, hidden: Callable[[Any], Tensor]) -> TextEmbedding:
    """Run a CLIP text encoder over a prompt, chunk by chunk.

    A chunk's weights multiply its hidden states, which are then scaled back to the mean they had, as A1111 does.

    Args:
        tokenizer: The encoder's tokenizer.
        text_encoder: A transformers ``CLIPTextModel`` or ``CLIPTextModelWithProjection``.
        prompt: The prompt; see `imagegen_core.diffusion.prompts` for what it may hold.
        hidden: Picks the hidden states [1, 77, width] to use from the encoder's output.
    """
    states, pooled = [], None
    for chunk in chunks(tokenizer, parse(prompt)):
        ids, weights = _padded(chunk, tokenizer)
        output = text_encoder(torch.tensor([ids], device=text_encoder.device), output_hidden_states=True)
        state = hidden(output)
        if chunk.is_weighted:
            weighted = state * torch.tensor(weights, device=state.device, dtype=state.dtype)[None, :, None]
            state = weighted * (state.mean() / weighted.mean())
        states.append(state)
        pooled = getattr(output, "text_embeds", None) if pooled is None else pooled
    return TextEmbedding(torch.cat(states, dim=1), pooled)


def _padded(chunk: Chunk, tokenizer: Any) -> tuple[list[int], list[float]]:
    """A chunk's ids and weights with start, end and padding, as long as the tokenizer's length."""
    padding = tokenizer.model_max_length - len(chunk.ids) - 2
    ids = [tokenizer.bos_token_id, *chunk.ids, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * padding]
    return ids, [1.0, *chunk.weights, 1.0, *[1.0] * padding]
