"""Classifier-free guidance, and checkpoints that are distilled with guidance."""

from __future__ import annotations

import logging
from typing import Any

import torch

from imagegen_core.request import ResolvedRequest

logger = logging.getLogger(__name__)


def is_distilled(pipe: Any) -> bool:
    """Return True if the UNet takes the guidance scale as an input, as latent consistency models do."""
    return pipe.unet.config.time_cond_proj_dim is not None


def is_guided(pipe: Any, request: ResolvedRequest) -> bool:
    """Return whether the request needs a second row for its negative prompt; warn about options without effect."""
    distilled = is_distilled(pipe)
    if request.guidance_scale > 1 and not distilled:
        return True
    why = (
        "this checkpoint was distilled with guidance and is never run a second time for it"
        if distilled
        else "it needs a guidance scale above 1.0"
    )
    if request.negative_prompt:
        logger.warning("The negative prompt has no effect: %s", why)
    if request.guidance_rescale:
        logger.warning("The guidance rescale has no effect: %s", why)
    return False


def guidance_embedding(pipe: Any, guidance_scale: float) -> torch.Tensor | None:
    """Return the embedded guidance scale [1, time_cond_proj_dim] for a distilled UNet; None for others."""
    if not is_distilled(pipe):
        return None
    embedding: torch.Tensor = pipe.get_guidance_scale_embedding(
        torch.tensor([guidance_scale - 1]), embedding_dim=pipe.unet.config.time_cond_proj_dim
    )
    return embedding
