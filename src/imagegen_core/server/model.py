"""The models behind the routes: which modes there are, and the engines that draw them."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import anyio.to_thread

from imagegen_core.engine import Residents, Ticket
from imagegen_core.engine.local import compute_on
from imagegen_core.errors import ImagegenError, NotReadyError, SettingsError
from imagegen_core.modes import Mode, ModelKey, ModeSet, load_modes, modes_path
from imagegen_core.plugins.registry import Registry
from imagegen_core.request import GenerateRequest
from imagegen_core.server.loading import load_engine, placements, weights_bytes
from imagegen_core.server.model_card import ModelCard
from imagegen_core.settings import Settings
from imagegen_core.worker import Adaptable

logger = logging.getLogger(__name__)


class Model:
    """Knows the modes, and has each drawn by its model, which is loaded when it is wanted.

    The default mode's is loaded at once, beside the server, so that this answers from the first moment.

    Attributes:
        state: Where the server stands: ``ready`` once the default mode can be drawn.
        failure: Why it could not be loaded, in a sentence.
        modes: The modes, by the last configuration that was whole.
        error: What is wrong with the present one; empty where nothing is.
        residents: The engines.
    """

    def __init__(self, settings: Settings, registry: Registry, engine: Any | None = None) -> None:
        """Nothing is loaded yet.

        Args:
            settings: Which modes.
            registry: The plugins.
            engine: An engine that is there already and draws the only mode, which its maker closes.

        Raises:
            SettingsError: The modes or devices are configured wrong.
        """
        if engine is None:
            placements(settings)  # refuses what cannot be before anything is loaded for it
        self._settings, self._registry = settings, registry
        self._given = engine is not None
        self.modes = load_modes(settings)
        self._configured_default = self.modes.default
        self.residents = Residents(
            self._load, estimate=self._estimate, budget=settings.memory_budget, queue_limit=settings.queue_max
        )
        self.state: Literal["loading", "ready", "failed", "stopping"] = "loading"
        self.failure = self.error = ""
        self._asked: dict[ModelKey, Mode] = {}
        self._cards: dict[ModelKey, ModelCard] = {}
        self._reloading = threading.Lock()
        if engine is not None:
            if self.modes.configured:
                raise SettingsError("An engine was given, and the configuration names modes: give one of the two")
            self.residents.adopt(self.modes.find(None).key, engine)
            self.state = "ready"

    def start(self) -> None:
        """Begin to load the default mode's model, on a thread of its own."""
        if self.state != "loading":
            return
        self.want(self.modes.find(None)).add_done_callback(self._note_first)

    def submit(self, mode: Mode, request: GenerateRequest, deadline: float | None) -> Ticket:
        """Have a request drawn in a mode.

        Raises:
            NotReadyError: The server loads its first model, could not, or stops.
            QueueFullError: Too many wait.
            InvalidRequestError: The request cannot be drawn.
        """
        self._check(mode)
        self._asked[mode.key] = mode
        return self.residents.submit(mode.key, request, deadline)

    def want(self, mode: Mode) -> Future[Any]:
        """Have a mode's model loaded; see `Residents.want`."""
        self._asked[mode.key] = mode
        return self.residents.want(mode.key)

    def card(self, mode: Mode) -> ModelCard:
        """A mode's model in a few words, from its files where it is not loaded.

        Raises:
            NotReadyError: The server loads its first model, could not, or stops.
            ImagegenError: It is not there, or damaged.
        """
        self._check(mode)
        if (engine := self.residents.engine(mode.key)) is not None:
            self._cards[mode.key] = ModelCard.of(engine.worker, mode.settings)
        elif mode.key not in self._cards:
            self._cards[mode.key] = ModelCard.of_files(mode.settings, self._registry)
        return self._cards[mode.key]

    async def bring(self, mode: Mode) -> None:
        """Return once a mode's model and its LoRAs are loaded.

        Raises:
            ImagegenError: They cannot be, and why.
        """
        engine = await asyncio.shield(asyncio.wrap_future(self.want(mode)))
        await anyio.to_thread.run_sync(_load_loras, engine, mode)
        self._note_ready(mode)

    async def switch(self, name: str) -> str:
        """Make another mode the default, once it is loaded; the one before serves meanwhile, and its name is returned.

        Raises:
            InvalidRequestError: There is none of that name.
            ImagegenError: It cannot be loaded; the default stays.
        """
        mode = self.modes.find(name)
        before = self.modes.default
        await self.bring(mode)
        self.modes = replace(self.modes, default=self.modes.find(name).name)  # which a reload may have taken away
        return before

    def reload(self) -> ModeSet:
        """Read the modes again; on any thread but the server's.

        A default mode that another model draws now is loaded first. One that was switched to stays the default as long
        as the file does not name another than before. Where this fails, the modes stay as they were.

        Raises:
            ImagegenError: The configuration is wrong, or its default mode cannot be loaded.
        """
        with self._reloading:
            if self._given:
                return self.modes
            try:
                fresh = self._kept_default(load_modes(self._settings.reread()))
                mode = fresh.find(None)
                _load_loras(self.want(mode).result(), mode)
            except ImagegenError as error:
                self.error = str(error)
                logger.error("The modes stay as they were: %s", error)  # noqa: TRY400 - it says what is wrong
                raise
            self.modes, self.error = fresh, ""
            self._cards.clear()
            self._note_ready(mode)
            self.residents.keep_only({mode.key for mode in fresh.modes.values()})
            logger.info("Read the modes anew: %s", ", ".join(fresh.modes))
            return fresh

    def files(self) -> list[Path]:
        """The files that the modes are configured in."""
        if self._given:
            return []
        path = modes_path(self._settings)
        return [*self._settings.files, *([] if path is None else [path])]

    def stop_accepting(self) -> None:
        """Draw nothing new from now on."""
        self.state = "stopping"

    def close(self) -> None:
        """Give up what is still drawn, and let go of the engines."""
        self.stop_accepting()
        self.residents.close(drain=False, limit=self._settings.shutdown_limit)

    def _check(self, mode: Mode) -> None:
        if self.state == "loading":
            raise NotReadyError("The model is being loaded: ask again in a moment")
        if self.state == "stopping":
            raise NotReadyError("The server is stopping: ask another, or this one after its restart")
        if self.state == "failed" and mode.key == self.modes.find(None).key:
            raise NotReadyError(f"The model could not be loaded: {self.failure}")

    def _kept_default(self, fresh: ModeSet) -> ModeSet:
        """The fresh modes, with the default that was switched to where the file has not changed its own."""
        switched = self.modes.default
        if fresh.default == self._configured_default and switched in fresh.modes:
            return replace(fresh, default=switched)
        self._configured_default = fresh.default
        return fresh

    def _load(self, key: ModelKey, beside: Any | None) -> Any:
        mode = self._asked[key]
        what = f"The model of mode {mode.name}" if self.modes.configured else "The model"
        try:
            engine = load_engine(mode.settings, beside)
            self._check_adaptable(engine, key)
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

    def _check_adaptable(self, engine: Any, key: ModelKey) -> None:
        """Refuse modes with LoRAs whose worker would draw without them."""
        modes = (self._asked[key], *self.modes.modes.values())
        with_loras = [mode.name for mode in modes if mode.key == key and mode.loras]
        if with_loras and not isinstance(engine.worker, Adaptable):
            engine.close(drain=False)
            raise SettingsError(
                f"Mode {with_loras[0]} has LoRAs, and {type(engine.worker).__name__} draws with none: leave them out"
            )

    def _note_first(self, loaded: Future[Any]) -> None:
        """The default mode's model is there, or will not be."""
        try:
            _load_loras(loaded.result(), self.modes.find(None))
        except ImagegenError as error:
            if self.state == "loading":
                self.failure, self.state = getattr(error, "why", str(error)), "failed"
        else:
            self._note_ready(self.modes.find(None))

    def _note_ready(self, mode: Mode) -> None:
        if self.state in ("loading", "failed") and mode.key == self.modes.find(None).key:
            self.failure, self.state = "", "ready"


class LoadFailedError(NotReadyError):
    """A model could not be loaded.

    Attributes:
        why: The reason alone.
    """

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} could not be loaded: {why}")
        self.why = why


def _load_loras(engine: Any, mode: Mode) -> None:
    for worker in engine.workers if mode.loras else ():
        compute_on(worker, worker.load_loras, mode.loras)
