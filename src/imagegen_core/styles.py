"""Named styles: each style is a LoRA with several strengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StyleDef:
    """A style; requests select it by its id. ``lora_path`` and ``adapter_name`` are required.

    Attributes:
        id: The name in requests, such as ``papercut``. The default is the key in `STYLE_REGISTRY`, or for a plugin's
            style its ``adapter_name``.
        title: The name for people. The default is the id.
        lora_path: The LoRA's file; relative paths start at the model root.
        adapter_name: The LoRA's name.
        levels: Adapter weights from -100 to 100: level 1 means ``levels[0]``; a level above N means N. A style without
            levels is skipped.
        required_cross_attention_dim: The cross-attention width of compatible checkpoints; None reads it from the
            file's header.

    Raises:
        TypeError: A required argument is missing.
    """

    id: str | None = None
    title: str | None = None
    lora_path: str = ""
    adapter_name: str = ""
    levels: Sequence[float] = ()
    required_cross_attention_dim: int | None = None

    def __post_init__(self) -> None:
        """Check the required arguments; they have defaults only because they follow other defaults."""
        required = {"lora_path": self.lora_path, "adapter_name": self.adapter_name}
        missing = [name for name, value in required.items() if not value]
        if missing:
            raise TypeError(f"StyleDef needs {' and '.join(missing)}: give a LoRA's file and its name")


@dataclass(frozen=True, slots=True)
class LoraUse:
    """A LoRA to use in addition to a picture's style, for example from a mode.

    Attributes:
        path: The LoRA's file.
        strength: The LoRA's weight, from -100 to 100.
        adapter_name: The name for people.
    """

    path: Path
    strength: float
    adapter_name: str


MAX_STRENGTH = 100.0
"""The largest weight of a LoRA; negated, the smallest. The same as in ComfyUI's LoraLoader (nodes.py)."""

STYLE_REGISTRY: dict[str, StyleDef] = {}
"""Styles registered by the application, by id. Plugins offer their styles through a hook."""
