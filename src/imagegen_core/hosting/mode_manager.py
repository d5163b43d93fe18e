"""What a server draws with: which modes there are, and whether they can be drawn yet."""

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
from imagegen_core.settings import Settings

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_CHANGING = 8  # requests that load, reload or unload at a time


class ModeManager:
    """Knows the modes, and has each drawn by its model, which is loaded when it is wanted.

    The default mode's is loaded at once, beside the server, so that this answers from the first moment.

    Attributes:
        state: Where the server stands: ``ready`` once the default mode can be drawn.
        failure: Why it could not be loaded, in a sentence.
        modes: The modes, by the last configuration that was whole.
        error: What is wrong with the present one; empty where nothing is.
        models: What draws them.
    """

    def __init__(
        self, settings: Settings, registry: Registry, models: ModelHost | None = None, *, fixed: str = ""
    ) -> None:
        """Nothing is loaded yet.

        Args:
            settings: Which modes.
            registry: The plugins.
            models: What draws them; None loads them in this process.
            fixed: Why the modes are not read again, in a sentence, where they are not.

        Raises:
            SettingsError: The modes or devices are configured wrong.
        """
        placements(settings)  # refuses what cannot be before anything is loaded for it
        self._settings, self._registry = settings, registry
        self.modes = load_modes(settings)
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
        """The only mode, drawn by an engine that is there already, which its maker closes.

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
        """Begin to load the default mode's model, on a thread of its own."""
        if self.state == "loading":
            threading.Thread(target=self._bring_first, name="imagegen-first-model", daemon=True).start()

    def submit(self, mode: Mode, request: GenerateRequest, deadline: float | None) -> Ticket:
        """Have a request drawn in a mode.

        Raises:
            NotReadyError: The server loads its first model, could not, or stops.
            QueueFullError: Too many wait.
            InvalidRequestError: The request cannot be drawn.
        """
        self._check(mode)
        return self.models.submit(mode, request, deadline)

    def card(self, mode: Mode) -> ModelCard:
        """A mode's model in a few words, from its files where it is not loaded.

        Raises:
            NotReadyError: The server loads its first model, could not, or stops.
            ImagegenError: It is not there, or damaged.
        """
        self._check(mode)
        if (loaded := self.models.card(mode)) is not None:
            self._cards[mode.key] = loaded
        elif mode.key not in self._cards:
            self._cards[mode.key] = ModelCard.of_files(mode.settings, self._registry)
        return self._cards[mode.key]

    async def bring(self, mode: Mode) -> None:
        """Return once a mode's model and its LoRAs are loaded.

        Raises:
            ImagegenError: They cannot be, and why.
        """
        await self.changing(self.models.bring, mode)
        self._note_ready(mode)

    async def changing(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call what may wait for a model, on threads that nothing else waits for."""
        return await anyio.to_thread.run_sync(function, *arguments, limiter=self._changing)

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
            ImagegenError: The configuration is wrong, its default mode cannot be loaded, or it is not read again.
        """
        with self._reloading:
            if self._fixed:
                raise InvalidRequestError(self._fixed)
            try:
                fresh = self._kept_default(load_modes(self._settings.reread()))
                mode = fresh.find(None)
                self.models.bring(mode)
            except ImagegenError as error:
                self.error = str(error)
                logger.error("The modes stay as they were: %s", error)  # noqa: TRY400 - it says what is wrong
                raise
            self.modes, self.error = fresh, ""
            self._cards.clear()
            self._note_ready(mode)
            self.models.keep_only({mode.key for mode in fresh.modes.values()})
            logger.info("Read the modes anew: %s", ", ".join(fresh.modes))
            return fresh

    def files(self) -> list[Path]:
        """The files that the modes are configured in."""
        if self._fixed:
            return []
        path = modes_path(self._settings)
        return [*self._settings.files, *([] if path is None else [path])]

    def stop_accepting(self) -> None:
        """Draw nothing new from now on."""
        self.state = "stopping"

    def close(self) -> None:
        """Give up what is still drawn, and let go of the engines."""
        self.stop_accepting()
        self.models.close(self._settings.shutdown_limit)

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

    def _bring_first(self) -> None:
        mode = self.modes.find(None)
        try:
            self.models.bring(mode)
        except ImagegenError as error:
            if self.state == "loading":
                self.failure, self.state = getattr(error, "why", str(error)), "failed"
        else:
            self._note_ready(mode)

    def _note_ready(self, mode: Mode) -> None:
        if self.state in ("loading", "failed") and mode.key == self.modes.find(None).key:
            self.failure, self.state = "", "ready"
