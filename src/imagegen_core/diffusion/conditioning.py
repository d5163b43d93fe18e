"""What the UNet is told about the picture, beside the latents and the timestep."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Conditioning:
    """One prompt as the UNet takes it.

    Attributes:
        tokens: Embedded prompt [1, tokens, width] for cross-attention.
        added: The UNet's ``added_cond_kwargs``, each [1, ...]; empty for SD1.5.
    """

    tokens: Tensor
    added: Mapping[str, Tensor] = field(default_factory=dict)


def encode_text(tokenizer: Any, text_encoder: Any, text: str) -> Any:
    """Run a CLIP text encoder over `text`, padded to its full length.

    Returns:
        The encoder's output with all ``hidden_states``, each [1, 77, width].
    """
    ids = tokenizer(text, padding="max_length", max_length=tokenizer.model_max_length, truncation=True).input_ids
    needed = len(tokenizer(text, verbose=False).input_ids)
    if needed > len(ids):
        logger.warning("The prompt has %d tokens and only the first %d are followed: shorten it", needed, len(ids))
    return text_encoder(torch.tensor([ids], device=text_encoder.device), output_hidden_states=True)
