"""What draws a server's modes: models in this process, or, by the same protocol, somewhere else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from imagegen_core.engine import Engine, EngineReport, Ticket
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
from imagegen_core.worker import DeviceMemory, ReportsMemory, SupportsLoras

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HostReport:
    """A process that draws, and what it has to tell.

    Attributes:
        name: Which; empty where it is this one.
        residents: The models that are there or come.
        cards: What there is to know of those that are there.
        engine: What its engines do; None where there are none.
        memories: The memory of each of its devices; none where no worker can tell.
        budget: Bytes that its models may take on a device; None where that is not known yet.
        loads: How many times it loaded a model.
        unloads: How many times it let go of one.
    """

    name: str
    residents: tuple[CacheEntryReport, ...]
    cards: Mapping[ModelKey, ModelCard] = field(default_factory=dict)
    engine: EngineReport | None = None
    memories: tuple[DeviceMemory, ...] = ()
    budget: int | None = None
    loads: int = 0
    unloads: int = 0


class ModelHost(Protocol):
    """The models of all modes, each loaded when it is wanted; see `LocalModelHost`."""

    def submit(self, mode: Mode, request: GenerateRequest, deadline: float | None) -> Ticket:
        """Have a request drawn in a mode."""
        ...

    def bring(self, mode: Mode) -> None:
        """Return once a mode's model and its LoRAs are loaded."""
        ...

    def card(self, mode: Mode) -> ModelCard | None:
        """A mode's model in a few words; None where it is not loaded."""
        ...

    def unload(self, mode: Mode) -> bool:
        """Let go of a mode's model; False where it cannot be."""
        ...

    def keep_only(self, keys: Collection[ModelKey]) -> None:
        """Let go of all other models, each once it has no work in hand."""
        ...

    def hosts(self) -> tuple[HostReport, ...]:
        """Who draws."""
        ...

    def report(self) -> EngineReport | None:
        """What the engines do, all together; None before the first is there."""
        ...

    def enlarging(self) -> UpscalerHost:
        """What enlarges pictures, where the models are."""
        ...

    def close(self, limit: float) -> None:
        """Give up what is still drawn, and let go of the models."""
        ...


class LocalModelHost:
    """Models in this process: each has an engine of its own, as many at a time as memory takes."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        """Nothing is loaded yet."""
        self._settings, self._registry = settings, registry
        self._residents = ModelManager(
            self._load, estimate=self._estimate, budget=settings.memory_budget, queue_limit=settings.queue_max
        )
        self._asked: dict[ModelKey, Mode] = {}
        self._adapted: dict[ModelKey, Mode] = {}  # the last with LoRAs that was asked for

    def adopt(self, mode: Mode, engine: Engine) -> None:
        """Take in an engine that draws a mode already; it stays, and its maker closes it."""
        self._asked[mode.key] = mode
        self._residents.adopt(mode.key, engine)

    def submit(self, mode: Mode, request: GenerateRequest, deadline: float | None) -> Ticket:
        """Have a request drawn in a mode; see `ModelManager.submit`."""
        self._note(mode)
        return self._residents.submit(mode.key, request, deadline)

    def bring(self, mode: Mode) -> None:
        """Return once a mode's model and its LoRAs are loaded; on any thread but a server's.

        Raises:
            ImagegenError: They cannot be, and why.
        """
        self._note(mode)
        engine = self._residents.want(mode.key).result()
        for worker in engine.workers if mode.loras else ():
            if isinstance(worker, SupportsLoras):  # as `_check_adaptable` has checked
                compute_on(worker, worker.load_loras, mode.loras)

    def card(self, mode: Mode) -> ModelCard | None:
        """A mode's model in a few words; None where it is not loaded."""
        engine = self.engine(mode)
        return None if engine is None else ModelCard.of(engine.worker, mode.settings, self._registry)

    def engine(self, mode: Mode) -> Engine | None:
        """The engine that draws a mode; None where its model is not loaded."""
        return self._residents.engine(mode.key)

    def unload(self, mode: Mode) -> bool:
        """Let go of a mode's model, unless it has work in hand, is being loaded, or is not ours: False then."""
        return self._residents.unload(mode.key)

    def keep_only(self, keys: Collection[ModelKey]) -> None:
        """Let go of all other models, each once it has no work in hand."""
        self._residents.keep_only(keys)

    def dismiss(self, mode: Mode) -> None:
        """Let go of a mode's model, once it has no work in hand."""
        self.keep_only({one.key for one in self._residents.tell()} - {mode.key})

    def hosts(self) -> tuple[HostReport, ...]:
        """This process."""
        engine = self._residents.any_engine()
        here = tuple(self._residents.tell())
        host = HostReport(
            name="",
            residents=here,
            cards={one.key: card for one in here if (card := self.card(self._asked[one.key]))},
            engine=self.report(),
            memories=_memories(engine.workers) if engine else (),
            budget=self._residents.budget,
            loads=self._residents.loads,
            unloads=self._residents.unloads,
        )
        return (host,)

    def report(self) -> EngineReport | None:
        """What the engines do, all together; None before the first is there."""
        return self._residents.report() if self._residents.any_engine() else None

    def enlarging(self) -> UpscalerHost:
        """Upscalers that compute on the models' threads.

        Raises:
            ModelNotFoundError: The configured upscaler is not there.
        """
        return Upscalers(self._settings, self._registry, self._compute)

    def close(self, limit: float) -> None:
        """Give up what is still drawn, and let go of the engines, waiting so long for one that is being loaded."""
        self._residents.close(drain=False, limit=limit)

    def _note(self, mode: Mode) -> None:
        self._asked[mode.key] = mode
        if not mode.loras:
            return
        self._adapted[mode.key] = mode
        if (engine := self.engine(mode)) is not None:
            _check_adaptable(engine, mode)

    def _compute(self, function: Callable[..., Any], *arguments: Any) -> Any:
        engine = self._residents.any_engine()
        return function(*arguments) if engine is None else engine.compute(function, *arguments)

    def _load(self, key: ModelKey, beside: Engine | None) -> Engine:
        mode = self._asked[key]
        what = "The model" if mode.name == DEFAULT_MODE else f"The model of mode {mode.name}"
        try:
            engine = load_engine(mode.settings, beside)
            if key in self._adapted:
                _check_adaptable(engine, self._adapted[key], close=True)
        except ImagegenError as error:
            logger.error("%s could not be loaded: %s", what, error)  # noqa: TRY400 - it says what is wrong
            raise LoadFailedError(what, str(error)) from error
        except Exception as error:
            logger.exception("%s could not be loaded", what)
            raise LoadFailedError(what, f"{type(error).__name__}: {error}") from error
        logger.info("%s is ready: %s", what, engine.report().because)
        return engine

    def _estimate(self, key: ModelKey) -> int:
        return weights_bytes(self._asked[key].settings, self._registry)


class LoadFailedError(NotReadyError):
    """A model could not be loaded.

    Attributes:
        why: The reason alone.
    """

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} could not be loaded: {why}")
        self.why = why


def _memories(workers: Sequence[Any]) -> tuple[DeviceMemory, ...]:
    """Of the devices that the workers compute on, each once."""
    weighed = [worker.device_memory() for worker in workers if isinstance(worker, ReportsMemory)]
    return tuple({memory.device: memory for memory in weighed}.values())


def _check_adaptable(engine: Engine, mode: Mode, *, close: bool = False) -> None:
    """Refuse a mode with LoRAs whose worker would draw without them."""
    if isinstance(engine.worker, SupportsLoras):
        return
    if close:
        engine.close(drain=False)
    raise SettingsError(
        f"Mode {mode.name} has LoRAs, and {type(engine.worker).__name__} draws with none: leave them out"
    )
