"""Encode prompts with a T5 text encoder (https://arxiv.org/abs/1910.10683).

The prompt's syntax is the same as for CLIP: see `imagegen_core.diffusion.prompts`. ``BREAK`` has no meaning for T5,
because it reads a prompt as a whole. Weights multiply hidden states, as in Forge's ``t5_engine.py``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from imagegen_core.diffusion.conditioning import checked_fragments, weighted


def t5_length(tokenizer: Any, prompt: str, field: str = "prompt") -> int:
    """Return a prompt's number of tokens, with its end token.

    Args:
        tokenizer: A T5 tokenizer.
        prompt: The prompt.
        field: The prompt's name in errors.

    Raises:
        InvalidRequestError: A weight is beyond -100 to 100.
    """
    return len(_tokenized(tokenizer, prompt, field)[0])


def encode_t5(tokenizer: Any, encoder: Any, prompt: str, length: int) -> Tensor:
    """Encode a prompt, padded to `length` tokens.

    Args:
        tokenizer: The encoder's tokenizer.
        encoder: A transformers ``T5EncoderModel``.
        prompt: The prompt, of at most `length` tokens; see `t5_length`.
        length: The number of tokens.

    Returns:
        Hidden states [1, length, width].

    Raises:
        InvalidRequestError: A weight is beyond -100 to 100, or so large that hidden states become infinite.
    """
    ids, weights = _tokenized(tokenizer, prompt)
    padding = length - len(ids)
    ids, weights = [*ids, *[tokenizer.pad_token_id] * padding], [*weights, *[1.0] * padding]
    hidden: Tensor = encoder(torch.tensor([ids], device=encoder.device))[0]
    return weighted(hidden, weights) if any(weight != 1.0 for weight in weights) else hidden


def _tokenized(tokenizer: Any, prompt: str, field: str = "prompt") -> tuple[list[int], list[float]]:
    """Return a prompt's tokens and their weights, with the end token."""
    fragments = [fragment for fragment in checked_fragments(prompt, field=field) if fragment.text is not None]
    texts = [fragment.text for fragment in fragments]
    tokenized = tokenizer(texts, add_special_tokens=False, verbose=False).input_ids if texts else []
    ids = [token for tokens in tokenized for token in tokens]
    weights = [fragment.weight for fragment, tokens in zip(fragments, tokenized, strict=True) for _ in tokens]
    return [*ids, tokenizer.eos_token_id], [*weights, 1.0]
