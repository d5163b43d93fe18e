"""Named styles: each is one LoRA with a ladder of strengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StyleDef:
    """A style that requests can ask for by its id.

    Attributes:
        id: What requests call it, such as ``papercut``.
        title: What people are shown.
        lora_path: The LoRA's ``.safetensors`` file; relative paths start at the model root.
        adapter_name: The name the adapter has inside the network; unique among styles.
        levels: Adapter weights: level 1 means ``levels[0]``; a level above N means N.
        required_cross_attention_dim: The cross-attention width of the checkpoints it fits; None reads
            it from the file's header.
    """

    id: str
    title: str
    lora_path: str
    adapter_name: str
    levels: Sequence[float]
    required_cross_attention_dim: int | None = None


@dataclass(frozen=True, slots=True)
class LoraUse:
    """A LoRA that a picture is drawn with beside its style, as a mode has them.

    Attributes:
        path: Its ``.safetensors`` file.
        strength: The factor it is added with.
        adapter_name: What people are shown.
    """

    path: Path
    strength: float
    adapter_name: str


STYLE_REGISTRY: dict[str, StyleDef] = {}
"""The styles an application has registered by hand, by id. Plugins offer theirs through a hook."""
