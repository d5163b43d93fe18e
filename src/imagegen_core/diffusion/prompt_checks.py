"""Checks of a request's prompts for text encoders, before anything is encoded."""

from __future__ import annotations

from typing import Any

from imagegen_core.diffusion.conditioning import prompt_chunks
from imagegen_core.diffusion.encoder_embeddings import EncoderEmbeddings
from imagegen_core.diffusion.t5 import t5_length
from imagegen_core.errors import InvalidRequestError


def check_clip_skip(text_encoder: Any, clip_skip: int) -> None:
    """Check that a text encoder has a layer left after `clip_skip`.

    Args:
        text_encoder: A transformers ``CLIPTextModel`` or ``CLIPTextModelWithProjection``.
        clip_skip: The number of last layers to leave out.

    Raises:
        InvalidRequestError: It has too few layers.
    """
    layers = text_encoder.config.num_hidden_layers
    if clip_skip >= layers - 1:
        raise InvalidRequestError(
            f"Invalid clip_skip {clip_skip}: this checkpoint's text encoder has {layers} layers; "
            f"expected a whole number from 0 to {layers - 2}",
            "clip_skip",
        )


def check_prompt_length(
    tokenizer: Any, prompt: str, field: str, max_chunks: int, embeddings: EncoderEmbeddings | None = None
) -> None:
    """Check a prompt's weights and its number of chunks.

    Args:
        tokenizer: A CLIP tokenizer.
        prompt: The prompt.
        field: The prompt's field in the request.
        max_chunks: The maximum number of chunks; see `Settings.max_prompt_chunks`.
        embeddings: The embeddings that the prompt may name.

    Raises:
        InvalidRequestError: A weight is out of range, or the prompt is too long.
    """
    count = len(prompt_chunks(tokenizer, prompt, embeddings, field))
    if count > max_chunks:
        raise InvalidRequestError(
            f"Invalid {field} of {count} chunks of up to 75 tokens: expected at most {max_chunks}, the limit "
            "max_prompt_chunks; shorten it, or leave out BREAKs",
            field,
        )


def check_t5_length(tokenizer: Any, prompt: str, field: str, most: int) -> None:
    """Check a prompt's weights and its number of tokens for T5.

    Args:
        tokenizer: A T5 tokenizer.
        prompt: The prompt.
        field: The prompt's field in the request.
        most: The maximum number of tokens, by `Settings.max_prompt_chunks`.

    Raises:
        InvalidRequestError: A weight is out of range, or the prompt is too long.
    """
    count = t5_length(tokenizer, prompt, field)
    if count > most:
        raise InvalidRequestError(
            f"Invalid {field} of {count} tokens for T5: expected at most {most}, from the limit max_prompt_chunks; "
            "shorten it",
            field,
        )
