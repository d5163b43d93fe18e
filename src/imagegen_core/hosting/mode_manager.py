"""The modes of a server, and whether each is ready to draw."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import anyio
import anyio.to_thread

from imagegen_core.engine import Engine, Ticket
from imagegen_core.errors import ImagegenError, InvalidRequestError, NotReadyError, SettingsError
from imagegen_core.hosting.engine_loader import placements
from imagegen_core.hosting.model_card import ModelCard
from imagegen_core.hosting.model_host import LocalModelHost, ModelHost
from imagegen_core.modes import Mode, ModelKey, ModeSet, load_modes, modes_path
from imagegen_core.plugins.registry import Registry
from imagegen_core.request import GenerateRequest
from imagegen_core.resolution.backend_settings import check_tables
from imagegen_core.resolution.parameters import check_modes
from imagegen_core.settings import Settings

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_CHANGING = 8  # maximum number of requests that load, reload or unload at the same time


class ModeManager:
    """Manage the modes, and draw each with its model; a model is loaded on first use.

    The default mode's model loads at start in a separate thread. The server answers requests meanwhile.

    Attributes:
        state: State of the server; ``ready`` when the default mode can draw.
        failure: The default model's load error as a sentence; empty without an error.
        modes: The modes of the last valid configuration.
        error: Error in the current configuration; empty without an error.
        models: The host of the models.
    """

    def __init__(
        self, settings: Settings, registry: Registry, models: ModelHost | None = None, *, fixed: str = ""
    ) -> None:
        """Read the modes; load no model yet.

        Args:
            settings: The configuration of the modes.
            registry: The plugins.
            models: The host of the models; None loads them in this process.
            fixed: The reason why `reload` is refused, as a sentence; empty allows it.

        Raises:
            SettingsError: The modes or devices are configured wrong.
        """
        placements(settings)  # refuse invalid placements before loading anything
        check_tables(settings, registry)
        self._settings, self._registry = settings, registry
        self.modes = self._read_modes(settings)
        self._configured_default = self.modes.default
        self.models: ModelHost = LocalModelHost(settings, registry) if models is None else models
        self._fixed = fixed
        self.state: Literal["loading", "ready", "failed", "stopping"] = "loading"
        self.failure = self.error = ""
        self._cards: dict[ModelKey, ModelCard] = {}
        self._reloading = threading.Lock()
        self._changing = anyio.CapacityLimiter(_CHANGING)

    @classmethod
    def drawing_with(cls, engine: Engine, settings: Settings, registry: Registry) -> Self:
        """Create a manager of one mode, drawn by an existing engine; the caller closes the engine.

        Raises:
            SettingsError: The configuration names modes.
        """
        models = LocalModelHost(settings, registry)
        model = cls(settings, registry, models, fixed="This server has one mode, drawn by the engine it was given")
        if model.modes.configured:
            raise SettingsError("An engine was given, and the configuration names modes: give one of the two")
        models.adopt(model.modes.find(None), engine)
        model.state = "ready"
        return model

    def start(self) -> None:
        """Start to load the default mode's model in a separate thread."""
        if self.state == "loading":
            threading.Thread(target=self._bring_first, name="imagegen-first-model", daemon=True).start()

    def submit(
        self, mode: Mode, request: GenerateRequest, deadline: float | None, refiner: Mode | None = None
    ) -> Ticket:
        """Submit a request to a mode's model, and to its refiner's.

        Raises:
            NotReadyError: The first model is loading or failed to load, or the server is stopping.
            QueueFullError: The queue is full.
            InvalidRequestError: The request cannot be drawn.
        """
        self._check(mode)
        return self.models.submit(mode, request, deadline, refiner)

    def card(self, mode: Mode) -> ModelCard:
        """Return a mode's model card; read it from the files if the model is not loaded.

        Raises:
            NotReadyError: The first model is loading or failed to load, or the server is stopping.
            ImagegenError: The model is missing or damaged.
        """
        self._check(mode)
        if (loaded := self.models.card(mode)) is not None:
            self._cards[mode.key] = loaded
        elif mode.key not in self._cards:
            self._cards[mode.key] = ModelCard.of_files(mode.settings, self._registry)
        return self._cards[mode.key]

    async def load(self, mode: Mode) -> None:
        """Wait until a mode's model and its LoRAs are loaded.

        Raises:
            ImagegenError: The model or a LoRA cannot be loaded.
        """
        await self.changing(self.models.load, mode)
        self._note_ready(mode)

    async def changing(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function that may wait for a model, in a dedicated thread pool."""
        return await anyio.to_thread.run_sync(function, *arguments, limiter=self._changing)

    async def switch(self, name: str) -> str:
        """Load a mode's model, make the mode the default, and return the previous default's name.

        The previous default serves until the model is loaded.

        Raises:
            InvalidRequestError: There is no mode of this name.
            ImagegenError: The model cannot be loaded; the default does not change.
        """
        mode = self.modes.find(name)
        before = self.modes.default
        await self.load(mode)
        self.modes = replace(self.modes, default=self.modes.find(name).name)  # a reload may have removed the mode
        return before

    def reload(self) -> ModeSet:
        """Read the modes again; not for the server's event loop thread.

        If the default mode has a new model, that model is loaded first. A default from `switch` stays until the file
        names a different default. On an error the modes do not change.

        Raises:
            ImagegenError: The configuration is wrong, its default mode cannot be loaded, or reloading is refused.
        """
        with self._reloading:
            if self._fixed:
                raise InvalidRequestError(self._fixed)
            try:
                fresh = self._kept_default(self._read_modes(self._settings.reread()))
                mode = fresh.find(None)
                self.models.load(mode)
            except ImagegenError as error:
                self.error = str(error)
                logger.error("The modes stay as they were: %s", error)  # noqa: TRY400 - the message tells the cause
                raise
            self.modes, self.error = fresh, ""
            self._cards.clear()
            self._note_ready(mode)
            self.models.keep_only({mode.key for mode in fresh.modes.values()})
            logger.info("Read the modes again: %s", ", ".join(fresh.modes))
            return fresh

    def files(self) -> list[Path]:
        """Return the configuration files of the modes."""
        if self._fixed:
            return []
        path = modes_path(self._settings)
        return [*self._settings.files, *([] if path is None else [path])]

    def stop_accepting(self) -> None:
        """Refuse new requests from now on."""
        self.state = "stopping"

    def close(self) -> None:
        """Cancel all open requests, and close the engines."""
        self.stop_accepting()
        self.models.close(self._settings.shutdown_limit)

    def _read_modes(self, settings: Settings) -> ModeSet:
        modes = load_modes(settings)
        check_modes(modes.modes.values(), self._registry.parameters)
        return modes

    def _check(self, mode: Mode) -> None:
        if self.state == "loading":
            raise NotReadyError("The model is being loaded: ask again in a moment")
        if self.state == "stopping":
            raise NotReadyError("The server is stopping: send the request to another server, or after its restart")
        if self.state == "failed" and mode.key == self.modes.find(None).key:
            raise NotReadyError(f"The model could not be loaded: {self.failure}")

    def _kept_default(self, fresh: ModeSet) -> ModeSet:
        """Return the new modes; keep a switched default if the file's own default has not changed."""
        switched = self.modes.default
        if fresh.default == self._configured_default and switched in fresh.modes:
            return replace(fresh, default=switched)
        self._configured_default = fresh.default
        return fresh

    def _bring_first(self) -> None:
        mode = self.modes.find(None)
        try:
            self.models.load(mode)
        except ImagegenError as error:
            if self.state == "loading":
                self.failure, self.state = getattr(error, "why", str(error)), "failed"
        else:
            self._note_ready(mode)

    def _note_ready(self, mode: Mode) -> None:
        if self.state in ("loading", "failed") and mode.key == self.modes.find(None).key:
            self.failure, self.state = "", "ready"
