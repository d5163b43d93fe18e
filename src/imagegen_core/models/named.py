"""Checkpoints that plugins bring along under a name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A checkpoint a configuration can name without knowing where it lies.

    Attributes:
        name: What ``MODEL`` or ``--model`` calls it, such as ``demo``.
        summary: One line for ``imagegen models list``.
        path: The checkpoint: a diffusers-format folder.
        fallback: Whether it answers where no checkpoint is configured at all.
    """

    name: str
    summary: str
    path: Path
    fallback: bool = False


def fallback_model(models: Iterable[NamedModel]) -> NamedModel | None:
    """The model that answers where none is configured; of several, the first by name."""
    return min((model for model in models if model.fallback), key=lambda model: model.name, default=None)
