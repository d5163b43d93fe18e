"""The inputs of the network other than latents and timestep: the encoded prompt and added conditions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from imagegen_core.diffusion.encoder_embeddings import EncoderEmbeddings
from imagegen_core.diffusion.prompts import Chunk, Fragment, chunks, parse
from imagegen_core.errors import InvalidRequestError
from imagegen_core.parts import Parts, completed

_MAX_WEIGHT = 100.0


@dataclass(frozen=True, slots=True)
class Conditioning:
    """An encoded prompt for the network.

    Attributes:
        tokens: The embedded prompt [1, tokens, width].
        added: Further conditions by the family's names, each [1, ...], such as a pooled prompt.
    """

    tokens: Tensor
    added: Mapping[str, Tensor] = field(default_factory=dict)

    def lengthened(self, filler: Conditioning, tokens: int) -> Conditioning:
        """Return this prompt with chunks of `filler` at its end, so that it is `tokens` long."""
        missing = (tokens - self.tokens.shape[1]) // filler.tokens.shape[1]
        return replace(self, tokens=torch.cat([self.tokens, *[filler.tokens] * missing], dim=1))

    def with_added(self, **conditions: Tensor) -> Conditioning:
        """Return this prompt with more conditions, each [1, ...]."""
        return replace(self, added={**self.added, **conditions})

    def zeros(self) -> Conditioning:
        """Return zeros in the shapes of this prompt and its conditions."""
        return Conditioning(
            torch.zeros_like(self.tokens), {name: torch.zeros_like(value) for name, value in self.added.items()}
        )


@dataclass(frozen=True, slots=True)
class TextEmbedding:
    """A prompt encoded by one text encoder.

    Attributes:
        tokens: Hidden states [1, 77 for each chunk, width].
        pooled: The first chunk's projection [1, width], or its end token's state for encoders without a projection.
    """

    tokens: Tensor
    pooled: Tensor


def encode_text(
    tokenizer: Any,
    text_encoder: Any,
    prompt: str,
    hidden: Callable[[Any], Tensor],
    embeddings: EncoderEmbeddings | None = None,
) -> TextEmbedding:
    """Encode a prompt with a CLIP text encoder, chunk by chunk.

    A chunk's weights multiply its hidden states. These are then scaled back to their old mean, as A1111 does.

    Args:
        tokenizer: The encoder's tokenizer.
        text_encoder: A transformers ``CLIPTextModel`` or ``CLIPTextModelWithProjection``.
        prompt: The prompt; see `imagegen_core.diffusion.prompts` for its syntax.
        hidden: Picks the hidden states [1, 77, width] from the encoder's output.
        embeddings: The embeddings that the prompt may name, such as ``worker.embeddings.of("text_encoder")``.

    Raises:
        InvalidRequestError: A weight is beyond -100 to 100, or so large that hidden states become infinite.
    """
    return completed(encode_text_in_parts(tokenizer, text_encoder, prompt, hidden, embeddings))


def encode_text_in_parts(
    tokenizer: Any,
    text_encoder: Any,
    prompt: str,
    hidden: Callable[[Any], Tensor],
    embeddings: EncoderEmbeddings | None = None,
) -> Parts[TextEmbedding]:
    """Encode as `encode_text` does, as a generator that yields between two chunks."""
    states: list[Tensor] = []
    pooled: Tensor | None = None
    for number, chunk in enumerate(prompt_chunks(tokenizer, prompt, embeddings)):
        if number:
            yield
        ids, weights = _padded(chunk, tokenizer)
        with _embedded(text_encoder, chunk):
            output = text_encoder(torch.tensor([ids], device=text_encoder.device), output_hidden_states=True)
        state = hidden(output)
        states.append(weighted(state, weights) if chunk.is_weighted else state)
        if pooled is None:
            pooled = output.text_embeds if hasattr(output, "text_embeds") else output.pooler_output
    return TextEmbedding(torch.cat(states, dim=1), cast("Tensor", pooled))


def prompt_chunks(
    tokenizer: Any, prompt: str, embeddings: EncoderEmbeddings | None, field: str = "prompt"
) -> list[Chunk]:
    """Split a prompt into chunks for a text encoder.

    Args:
        tokenizer: See `encode_text`.
        prompt: The prompt.
        embeddings: See `encode_text`.
        field: The prompt's name in errors.

    Raises:
        InvalidRequestError: A weight, multiplied by the brackets around it, is beyond -100 to 100.
    """
    return chunks(tokenizer, checked_fragments(prompt, embeddings.names if embeddings else None, field), embeddings)


def checked_fragments(prompt: str, names: re.Pattern[str] | None = None, field: str = "prompt") -> list[Fragment]:
    """Split a prompt as `parse` does.

    Args:
        prompt: The prompt.
        names: See `parse`.
        field: The prompt's name in errors.

    Raises:
        InvalidRequestError: A weight, multiplied by the brackets around it, is beyond -100 to 100.
    """
    fragments = parse(prompt, names)
    for fragment in fragments:
        if not abs(fragment.weight) <= _MAX_WEIGHT:
            raise InvalidRequestError(
                f"Invalid weight {fragment.weight:g} in {field}: expected -{_MAX_WEIGHT:g} to {_MAX_WEIGHT:g}, "
                "multiplied by the brackets around it, and about 0 to 2 for most words",
                field,
            )
    return fragments


@contextmanager
def _embedded(text_encoder: Any, chunk: Chunk) -> Iterator[None]:
    """Replace the vectors of placeholder tokens with those of a chunk's embeddings."""
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


def weighted(state: Tensor, weights: list[float]) -> Tensor:
    """Multiply hidden states [1, tokens, width] by their tokens' weights, and restore their mean."""
    scaled = state.float() * torch.tensor(weights, device=state.device)[None, :, None]
    scaled = (scaled * (state.float().mean() / scaled.mean())).to(state.dtype)
    if not torch.isfinite(scaled).all():
        largest = max(weights, key=abs)
        raise InvalidRequestError(
            f"Invalid weight {largest:g} in a prompt: it leaves no finite numbers; expected about 0 to 2", "prompt"
        )
    return scaled


def _padded(chunk: Chunk, tokenizer: Any) -> tuple[list[int], list[float]]:
    """Return a chunk's ids and weights with start, end and padding, up to the tokenizer's length."""
    padding = tokenizer.model_max_length - len(chunk.ids) - 2
    ids = [tokenizer.bos_token_id, *chunk.ids, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * padding]
    return ids, [1.0, *chunk.weights, 1.0, *[1.0] * padding]
