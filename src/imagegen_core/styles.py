"""Named styles: each is one LoRA with a ladder of strengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StyleDef:
    """A style that requests can ask for by its id; ``lora_path`` and ``adapter_name`` are required.

    Attributes:
        id: The name that requests use, such as ``papercut``. Left out, it is the key in `STYLE_REGISTRY`, or of a
            plugin's style its ``adapter_name``.
        title: The name that people are shown. Left out, it is the id.
        lora_path: The LoRA's file; relative paths start at the model root.
        adapter_name: The LoRA's name.
        levels: Adapter weights from -100 to 100: level 1 means ``levels[0]``; a level above N means N. A style without
            any is skipped.
        required_cross_attention_dim: The cross-attention width of the checkpoints it fits; None reads
            it from the file's header.

    Raises:
        TypeError: A required argument is left out.
    """

    id: str | None = None
    title: str | None = None
    lora_path: str = ""
    adapter_name: str = ""
    levels: Sequence[float] = ()
    required_cross_attention_dim: int | None = None

    def __post_init__(self) -> None:
        """Refuse a style without its required arguments, which follow arguments with defaults."""
        required = {"lora_path": self.lora_path, "adapter_name": self.adapter_name}
        missing = [name for name, value in required.items() if not value]
        if missing:
            raise TypeError(f"StyleDef needs {' and '.join(missing)}: give a LoRA's file and its name")


@dataclass(frozen=True, slots=True)
class LoraUse:
    """A LoRA that a picture is drawn with beside its style, as a mode has them.

    Attributes:
        path: Its file.
        strength: The factor it is added with, from -100 to 100.
        adapter_name: What people are shown.
    """

    path: Path
    strength: float
    adapter_name: str


MAX_STRENGTH = 100.0
"""The largest factor of a LoRA, and, negated, the smallest: as ComfyUI's LoraLoader takes it (nodes.py)."""

STYLE_REGISTRY: dict[str, StyleDef] = {}
"""The styles that an application has registered by hand, by id. Plugins offer theirs through a hook."""
