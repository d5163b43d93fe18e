"""What the routes tell of the model that draws; a worker that says less gives shorter answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagegen_core.models.inspect import architecture, native_size
from imagegen_core.models.loras.checkpoint_layers import CheckpointLayers
from imagegen_core.models.resolve import resolve_checkpoint
from imagegen_core.models.style_catalog import CatalogedStyle, StyleCatalog
from imagegen_core.plugins.registry import Registry
from imagegen_core.plugins.selection import select_backend
from imagegen_core.settings import Settings


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The model in a few words.

    Attributes:
        name: What clients call it.
        path: Where its weights are; None where the worker does not say.
        size: ``WIDTHxHEIGHT`` it draws of itself.
        styles: The styles that fit it, and the strengths of each.
        precision: The device and the precision it computes with.
    """

    name: str
    path: Path | None
    size: str | None
    styles: Mapping[str, tuple[float, ...]]
    precision: str

    @classmethod
    def of(cls, worker: Any, settings: Settings) -> ModelCard:
        """What `worker` says of itself."""
        path = getattr(worker, "checkpoint", None)
        device, dtype = getattr(worker, "device", None), getattr(worker, "dtype", None)
        return cls(
            name=settings.model or (path.stem if path else type(worker).__name__),
            path=path,
            size=getattr(worker, "native_size", None),
            styles=_usable(getattr(worker, "styles", {})),
            precision=" ".join(str(part).removeprefix("torch.") for part in (device, dtype) if part is not None),
        )

    @classmethod
    def of_files(cls, settings: Settings, registry: Registry) -> ModelCard:
        """What the files of a model say that is not loaded.

        Raises:
            ImagegenError: They are not there, or damaged.
        """
        backend = select_backend(registry, settings)
        settings = settings.for_backend(backend.environment_prefix)
        path = resolve_checkpoint(settings, backend, registry)
        layers = CheckpointLayers.of_files(path, settings.base_model)
        styles = StyleCatalog(settings, registry, layers.cross_attention_dim, architecture(path), layers)
        return cls(
            name=settings.model or path.stem,
            path=path,
            size=native_size(path, backend.default_size),
            styles=_usable(styles),
            precision="",
        )

    @property
    def title(self) -> str:
        """As A1111 shows a checkpoint: the file's name."""
        return self.path.name if self.path and self.path.is_file() else self.name


def _usable(styles: Mapping[str, CatalogedStyle]) -> dict[str, tuple[float, ...]]:
    return {name: style.levels for name, style in styles.items() if style.refusal is None}
