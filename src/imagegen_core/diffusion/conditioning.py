"""What the UNet is told about the picture, beside the latents and the timestep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from imagegen_core.diffusion.encoder_embeddings import EncoderEmbeddings
from imagegen_core.diffusion.prompts import Chunk, chunks, parse
from imagegen_core.errors import InvalidRequestError
from imagegen_core.parts import Parts, completed

_MAX_WEIGHT = 100.0


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


def encode_text(
    tokenizer: Any,
    text_encoder: Any,
    prompt: str,
    hidden: Callable[[Any], Tensor],
    embeddings: EncoderEmbeddings | None = None,
) -> TextEmbedding:
    """Run a CLIP text encoder over a prompt, chunk by chunk.

    A chunk's weights multiply its hidden states, which are then scaled back to the mean they had, as A1111 does.

    Args:
        tokenizer: The encoder's tokenizer.
        text_encoder: A transformers ``CLIPTextModel`` or ``CLIPTextModelWithProjection``.
        prompt: The prompt; see `imagegen_core.diffusion.prompts` for what it may hold.
        hidden: Picks the hidden states [1, 77, width] to use from the encoder's output.
        embeddings: The embeddings that the prompt may name, such as ``worker.embeddings.of("text_encoder")``.

    Raises:
        InvalidRequestError: A weight is beyond -100 to 100, or so large that hidden states are infinite.
    """
    return completed(encode_text_in_parts(tokenizer, text_encoder, prompt, hidden, embeddings))


def encode_text_in_parts(
    tokenizer: Any,
    text_encoder: Any,
    prompt: str,
    hidden: Callable[[Any], Tensor],
    embeddings: EncoderEmbeddings | None = None,
) -> Parts[TextEmbedding]:
    """Do what `encode_text` does, a chunk at a time: a generator that yields between two chunks."""
    states, pooled = [], None
    for number, chunk in enumerate(prompt_chunks(tokenizer, prompt, embeddings)):
        if number:
            yield
        ids, weights = _padded(chunk, tokenizer)
        with _embedded(text_encoder, chunk):
            output = text_encoder(torch.tensor([ids], device=text_encoder.device), output_hidden_states=True)
        state = hidden(output)
        states.append(_weighted(state, weights) if chunk.is_weighted else state)
        pooled = getattr(output, "text_embeds", None) if pooled is None else pooled
    return TextEmbedding(torch.cat(states, dim=1), pooled)


def prompt_chunks(
    tokenizer: Any, prompt: str, embeddings: EncoderEmbeddings | None, field: str = "prompt"
) -> list[Chunk]:
    """Split a prompt into the chunks that a text encoder reads.

    Args:
        tokenizer: See `encode_text`, for this and the next two.
        prompt: The prompt.
        embeddings: The embeddings.
        field: What errors call the prompt.

    Raises:
        InvalidRequestError: A weight, with those of the brackets around it, is beyond -100 to 100.
    """
    fragments = parse(prompt, embeddings.names if embeddings else None)
    for fragment in fragments:
        if not abs(fragment.weight) <= _MAX_WEIGHT:
            raise InvalidRequestError(
                f"Invalid weight {fragment.weight:g} in {field}: expected -{_MAX_WEIGHT:g} to {_MAX_WEIGHT:g}, "
                "multiplied by the brackets around it, and about 0 to 2 for most words",
                field,
            )
    return chunks(tokenizer, fragments, embeddings)


@contextmanager
def _embedded(text_encoder: Any, chunk: Chunk) -> Iterator[None]:
    """Put the vectors of a chunk's embeddings in the place of their tokens'."""
    if not chunk.embeddings:
        yield
        return

    def replaced(_module: Any, _inputs: Any, embedded: Tensor) -> Tensor:
        embedded = embedded.clone()
        for index, vectors in chunk.embeddings.items():
            embedded[:, index + 1 : index + 1 + len(vectors)] = vectors  # after the start token
        return embedded

    hook = text_encoder.get_input_embeddings().register_forward_hook(replaced)
    try:
        yield
    finally:
        hook.remove()


def _weighted(state: Tensor, weights: list[float]) -> Tensor:
    """Hidden states [1, tokens, width] times their tokens' weights, with the mean they had."""
    weighted = state.float() * torch.tensor(weights, device=state.device)[None, :, None]
    weighted = (weighted * (state.float().mean() / weighted.mean())).to(state.dtype)
    if not torch.isfinite(weighted).all():
        largest = max(weights, key=abs)
        raise InvalidRequestError(
            f"Invalid weight {largest:g} in a prompt: it leaves no finite numbers; expected about 0 to 2", "prompt"
        )
    return weighted


def _padded(chunk: Chunk, tokenizer: Any) -> tuple[list[int], list[float]]:
    """A chunk's ids and weights with start, end and padding, as long as the tokenizer's length."""
    padding = tokenizer.model_max_length - len(chunk.ids) - 2
    ids = [tokenizer.bos_token_id, *chunk.ids, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * padding]
    return ids, [1.0, *chunk.weights, 1.0, *[1.0] * padding]
