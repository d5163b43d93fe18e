"""Named checkpoints of plugins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A named checkpoint, for configurations without its path.

    Attributes:
        name: The value for ``MODEL`` or ``--model``, such as ``demo``.
        summary: One line for ``imagegen models list``.
        path: The checkpoint: a diffusers-format folder.
        fallback: Whether it is used if no checkpoint is configured.
    """

    name: str
    summary: str
    path: Path
    fallback: bool = False


def fallback_model(models: Iterable[NamedModel]) -> NamedModel | None:
    """Return the model to use if none is configured; of several, the first by name."""
    return min((model for model in models if model.fallback), key=lambda model: model.name, default=None)
