"""The host of a server's models, as a protocol, and its implementation in this process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from imagegen_core.engine import Engine, EngineReport, LocalEngine, Pool, Ticket
from imagegen_core.engine.local import compute_on
from imagegen_core.errors import ImagegenError, NotReadyError, SettingsError
from imagegen_core.hosting.cache_entry import CacheEntryReport
from imagegen_core.hosting.engine_loader import load_engine, weights_bytes
from imagegen_core.hosting.model_card import ModelCard
from imagegen_core.hosting.model_manager import ModelManager
from imagegen_core.hosting.upscaling import UpscalerHost, Upscalers
from imagegen_core.modes import DEFAULT_MODE, Mode, ModelKey
from imagegen_core.plugins.registry import Registry
from imagegen_core.request import GenerateRequest
from imagegen_core.settings import Settings
from imagegen_core.worker import DeviceMemory, HasComputeThread, ReportsMemory, SupportsLoras

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HostReport:
    """Report of one process with models.

    Attributes:
        name: Name of the process; empty for this process.
        entries: Reports of the models that are loaded, loading or queued.
        cards: Cards of the loaded models.
        engine: Merged report of the engines; None without engines.
        memories: Memory of each device; empty if no worker reports it.
        budget: Memory budget in bytes on a device; None if unknown yet.
        loads: Number of loads so far.
        unloads: Number of unloads so far.
    """

    name: str
    entries: tuple[CacheEntryReport, ...]
    cards: Mapping[ModelKey, ModelCard] = field(default_factory=dict)
    engine: EngineReport | None = None
    memories: tuple[DeviceMemory, ...] = ()
    budget: int | None = None
    loads: int = 0
    unloads: int = 0


class ModelHost(Protocol):
    """Host the models of all modes, and load each on first use; see `LocalModelHost`."""

    def submit(
        self, mode: Mode, request: GenerateRequest, deadline: float | None, refiner: Mode | None = None
    ) -> Ticket:
        """Submit a request to a mode's model; the mode `refiner` is that of the request's refiner."""
        ...

    def load(self, mode: Mode) -> None:
        """Wait until a mode's model and its LoRAs are loaded."""
        ...

    def card(self, mode: Mode) -> ModelCard | None:
        """Return the card of a mode's model, or None if it is not loaded."""
        ...

    def unload(self, mode: Mode) -> bool:
        """Unload a mode's model; return False if this is not possible."""
        ...

    def keep_only(self, keys: Collection[ModelKey]) -> None:
        """Unload all other models, each after its open requests."""
        ...

    def hosts(self) -> tuple[HostReport, ...]:
        """Return a report of each process with models."""
        ...

    def report(self) -> EngineReport | None:
        """Return the merged report of all engines, or None before the first load."""
        ...

    def enlarging(self) -> UpscalerHost:
        """Return the upscalers of this host."""
        ...

    def close(self, limit: float) -> None:
        """Cancel all open requests, and unload the models."""
        ...


class LocalModelHost:
    """Host models in this process: one engine for each, and as many at a time as memory allows."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings, self._registry = settings, registry
        self._manager = ModelManager(
            self._load, estimate=self._estimate, budget=settings.memory_budget, queue_limit=settings.queue_max
        )
        self._asked: dict[ModelKey, Mode] = {}
        self._adapted: dict[ModelKey, Mode] = {}  # for each model, the last requested mode with LoRAs

    def adopt(self, mode: Mode, engine: Engine) -> None:
        """Register an existing engine for a mode; it stays loaded, and the caller closes it.

        Raises:
            SettingsError: A plugin changes pictures, and the engine is neither a `LocalEngine` nor a `Pool`.
        """
        self._attach_hooks(engine)
        self._asked[mode.key] = mode
        self._manager.adopt(mode.key, engine)

    def submit(
        self, mode: Mode, request: GenerateRequest, deadline: float | None, refiner: Mode | None = None
    ) -> Ticket:
        """Submit a request to a mode's model; see `ModelManager.submit`."""
        self._note(mode)
        if refiner is not None:
            self._asked[refiner.key] = refiner
        return self._manager.submit(mode.key, request, deadline, refiner=None if refiner is None else refiner.key)

    def load(self, mode: Mode) -> None:
        """Wait until a mode's model and its LoRAs are loaded; not for a server's event loop thread.

        Raises:
            ImagegenError: The model or a LoRA cannot be loaded.
        """
        self._note(mode)
        engine = self._manager.want(mode.key).result()
        for worker in engine.workers if mode.loras else ():
            if isinstance(worker, SupportsLoras):  # as `Mode.check_worker` has checked
                compute_on(worker, worker.load_loras, mode.loras)

    def card(self, mode: Mode) -> ModelCard | None:
        """Return the card of a mode's model, or None if it is not loaded."""
        engine = self.engine(mode)
        return None if engine is None else ModelCard.of(engine.worker, mode.settings, self._registry)

    def engine(self, mode: Mode) -> Engine | None:
        """Return the engine of a mode, or None if its model is not loaded."""
        return self._manager.engine(mode.key)

    def unload(self, mode: Mode) -> bool:
        """Unload a mode's model; return False if it is busy, loading, absent or adopted."""
        return self._manager.unload(mode.key)

    def keep_only(self, keys: Collection[ModelKey]) -> None:
        """Unload all other models, each after its open requests."""
        self._manager.keep_only(keys)

    def dismiss(self, mode: Mode) -> None:
        """Unload a mode's model after its open requests."""
        self.keep_only({report.key for report in self._manager.tell()} - {mode.key})

    def hosts(self) -> tuple[HostReport, ...]:
        """Return the report of this process."""
        here = tuple(self._manager.tell())
        host = HostReport(
            name="",
            entries=here,
            cards={report.key: card for report in here if (card := self.card(self._asked[report.key]))},
            engine=self.report(),
            memories=_memories(worker for engine in self._manager.engines() for worker in engine.workers),
            budget=self._manager.budget,
            loads=self._manager.loads,
            unloads=self._manager.unloads,
        )
        return (host,)

    def report(self) -> EngineReport | None:
        """Return the merged report of all engines, or None before the first load."""
        return self._manager.report() if self._manager.engines() else None

    def enlarging(self) -> UpscalerHost:
        """Create upscalers that compute on the models' threads.

        Raises:
            ModelNotFoundError: The configured upscaler does not exist.
        """
        return Upscalers(self._settings, self._registry, self._compute)

    def close(self, limit: float) -> None:
        """Cancel all open requests, and close the engines; wait up to `limit` seconds for a model that is loading."""
        self._manager.close(drain=False, limit=limit)

    def _note(self, mode: Mode) -> None:
        self._asked[mode.key] = mode
        if not mode.loras:
            return
        self._adapted[mode.key] = mode
        if (engine := self.engine(mode)) is not None:
            mode.check_worker(engine.worker)

    def _compute(self, function: Callable[..., Any], *arguments: Any) -> Any:
        computing = (engine for engine in self._manager.engines() if isinstance(engine.worker, HasComputeThread))
        engine = next(computing, None)
        return function(*arguments) if engine is None else engine.compute(function, *arguments)

    def _load(self, key: ModelKey, beside: Sequence[Engine]) -> Engine:
        mode = self._asked[key]
        what = "The model" if mode.name == DEFAULT_MODE else f"The model of mode {mode.name}"
        try:
            engine = load_engine(mode.settings, beside)
            self._check_loras(key, engine)
            self._attach_hooks(engine)
        except ImagegenError as error:
            logger.error("%s could not be loaded: %s", what, error)  # noqa: TRY400 - the message tells the cause
            raise LoadFailedError(what, str(error)) from error
        except Exception as error:
            logger.exception("%s could not be loaded", what)
            raise LoadFailedError(what, f"{type(error).__name__}: {error}") from error
        logger.info("%s is ready: %s", what, engine.report().because)
        return engine

    def _check_loras(self, key: ModelKey, engine: Engine) -> None:
        """Close an engine without support for the requested LoRAs; the next request may be from another mode."""
        mode = self._adapted.get(key)
        if mode is None:
            return
        try:
            mode.check_worker(engine.worker)
        except SettingsError:
            del self._adapted[key]
            engine.close(drain=False)
            raise

    def _attach_hooks(self, engine: Engine) -> None:
        if not self._registry.hooks.changes_pictures:
            return
        if not isinstance(engine, LocalEngine | Pool):
            raise SettingsError(
                f"A plugin changes pictures (imagegen_picture), and the engine {type(engine).__name__} calls no "
                "plugins: disable the plugin, or give a LocalEngine or a Pool"
            )
        engine.process = self._registry.hooks.picture

    def _estimate(self, key: ModelKey) -> int:
        return weights_bytes(self._asked[key].settings, self._registry)


class LoadFailedError(NotReadyError):
    """A model could not be loaded.

    Attributes:
        why: The reason, without the model's name.
    """

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} could not be loaded: {why}")
        self.why = why


def _memories(workers: Iterable[Any]) -> tuple[DeviceMemory, ...]:
    """Return the memory of each of the workers' devices, without duplicates; some workers report none."""
    weighed = [worker.device_memory() for worker in workers if isinstance(worker, ReportsMemory)]
    return tuple({memory.device: memory for memory in weighed}.values())
