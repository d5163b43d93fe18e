"""The description of a model for the routes; a worker that reports less gives a shorter card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagegen_core.description import PLAIN_FORMATS
from imagegen_core.memory_plan import MemoryPlan
from imagegen_core.models.inspect import describe, native_size, recognize
from imagegen_core.models.networks.channels import LATENT_CHANNELS, Extra, extra_channels
from imagegen_core.models.prediction import own_scheduler
from imagegen_core.numerics import NumericsPlan
from imagegen_core.plugins.registry import Registry
from imagegen_core.request import ResolvedRequest
from imagegen_core.resolution.backends import backend_of, select_backend
from imagegen_core.resolution.checkpoints import resolve_checkpoint
from imagegen_core.resolution.style_catalog import CatalogedStyle, StyleCatalog
from imagegen_core.samplers import OwnScheduler, Sampler, check_steps, find_sampling
from imagegen_core.settings import Settings


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Description of a model.

    Attributes:
        name: The model's name for clients.
        path: Path of the weights; None if the worker does not report it.
        size: Native size as ``WIDTHxHEIGHT``; None if unknown.
        styles: Names of the compatible styles, and the strengths of their levels.
        precision: The device and the dtype.
        sampler: The default sampler; None if the worker does not report it.
        own_scheduler: Description of the checkpoint's own scheduler.
        embeddings: Textual-inversion embeddings: name to number and width of the vectors; empty before the load.
        backend: Name of the backend; None if no installed plugin describes the worker.
        numerics: The numerics plan; None before the load, or if the worker has none.
        memory: The memory plan; None before the load, or if the worker has none.
        lacking: The fields of requests that this checkpoint does not take, beside those of its backend.
    """

    name: str
    path: Path | None
    size: str | None
    styles: Mapping[str, tuple[float, ...]]
    precision: str
    sampler: str | None = None
    own_scheduler: OwnScheduler | None = None
    embeddings: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    backend: str | None = None
    numerics: NumericsPlan | None = None
    memory: MemoryPlan | None = None
    lacking: tuple[str, ...] = ()

    @classmethod
    def of(cls, worker: Any, settings: Settings, registry: Registry) -> ModelCard:
        """Create the card of a loaded model from its worker."""
        path = getattr(worker, "checkpoint", None)
        backend = backend_of(worker, registry)
        device, dtype = getattr(worker, "device", None), getattr(worker, "dtype", None)
        return cls(
            name=_name(path, settings, registry) if path else settings.model or type(worker).__name__,
            path=path,
            size=getattr(worker, "native_size", None),
            styles=_usable(getattr(worker, "styles", {})),
            precision=" ".join(str(part).removeprefix("torch.") for part in (device, dtype) if part is not None),
            sampler=getattr(worker, "default_sampler", None),
            own_scheduler=getattr(worker, "own_scheduler", None),
            embeddings=getattr(worker, "embedding_sizes", {}),
            backend=None if backend is None else backend.name,
            numerics=getattr(worker, "numerics", None),
            memory=getattr(worker, "memory_plan", None),
            lacking=getattr(worker, "lacking", ()),
        )

    @classmethod
    def of_files(cls, settings: Settings, registry: Registry) -> ModelCard:
        """Create the card of an unloaded model from its files.

        Raises:
            ImagegenError: The files are missing or damaged.
        """
        backend = select_backend(registry, settings)
        settings = settings.for_backend(backend.environment_prefix)
        path = resolve_checkpoint(settings, backend, registry)
        return cls(
            name=_name(path, settings, registry),
            path=path,
            size=native_size(path, backend.default_size, registry),
            styles={} if "style_lora" in backend.without else _usable(StyleCatalog.of_files(path, settings, registry)),
            precision="",
            backend=backend.name,
            lacking=_lacking(path, registry),
            **_sampling(path, settings, registry) if "scheduler" not in backend.without else {},
        )

    def check_sampling(self, request: ResolvedRequest, samplers: Iterable[Sampler]) -> None:
        """Check a request's sampler, schedule and steps, as far as possible before drawing.

        Raises:
            InvalidRequestError: The sampler or schedule does not exist, or the sampler takes fewer steps.
        """
        if self.sampler is None or self.own_scheduler is None:
            return
        wanted = request.scheduler or self.sampler
        sampler, _ = find_sampling(wanted, request.schedule, samplers, self.own_scheduler)
        check_steps(sampler, request.steps, self.own_scheduler)

    @property
    def title(self) -> str:
        """Checkpoint title in A1111's form: the file's name."""
        return self.path.name if self.path and self.path.is_file() else self.name


def _name(path: Path, settings: Settings, registry: Registry) -> str:
    """Return a checkpoint's name from the configuration or a plugin, else its file's name."""
    named = (model.name for model in registry.models.values() if model.path == path)
    return settings.model or next(named, path.stem)


def _sampling(path: Path, settings: Settings, registry: Registry) -> dict[str, Any]:
    """Return the sampler and the scheduler of an unloaded checkpoint, as arguments of `ModelCard`."""
    model_format, name = recognize(path, registry)
    if model_format not in PLAIN_FORMATS or name is None:
        return {}
    named = None if settings.source("scheduler") == "default" else settings.scheduler
    own = own_scheduler(path, settings.prediction)
    sampler = named or registry.families[name].default_sampler or own.default_sampler
    return {"sampler": sampler, "own_scheduler": own}


def _lacking(path: Path, registry: Registry) -> tuple[str, ...]:
    """Return the fields that an unloaded checkpoint does not take, by the channels of its UNet."""
    if recognize(path, registry).format not in PLAIN_FORMATS:
        return ()
    description = describe(path, registry)
    family = registry.families.get(description.family or "")
    if family is None or family.denoiser != "unet" or description.input_channels is None:
        return Extra.NONE.lacking
    return (extra_channels(description.input_channels, LATENT_CHANNELS) or Extra.NONE).lacking


def _usable(styles: Mapping[str, CatalogedStyle]) -> dict[str, tuple[float, ...]]:
    return {name: style.levels for name, style in styles.items() if style.refusal is None}
