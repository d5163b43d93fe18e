"""The engine behind the routes: loaded beside the server, so that it answers from the first moment."""

from __future__ import annotations

import logging
import threading
from typing import Any, Literal

from imagegen_core.engine import LocalEngine, Pool
from imagegen_core.errors import ImagegenError, NotReadyError
from imagegen_core.settings import Settings
from imagegen_core.shortcuts import load_worker

logger = logging.getLogger(__name__)


class Model:
    """Loads the configured model, and holds the engine that draws with it.

    Attributes:
        state: Where it stands.
        failure: Why it could not be loaded, in a sentence.
    """

    def __init__(self, settings: Settings, engine: Any | None = None) -> None:
        """Nothing is loaded yet.

        Args:
            settings: Which model.
            engine: An engine that is there already, which its maker closes.
        """
        self._settings = settings
        self._given = engine is not None
        self._engine = engine
        self._thread: threading.Thread | None = None
        self.state: Literal["loading", "ready", "failed", "stopping"] = "loading" if engine is None else "ready"
        self.failure = ""

    def start(self) -> None:
        """Begin to load, on a thread of its own."""
        if self._engine is None and self._thread is None:
            self._thread = threading.Thread(target=self._load, name="imagegen-loader", daemon=True)
            self._thread.start()

    @property
    def engine(self) -> Any:
        """The engine.

        Raises:
            NotReadyError: It is still being loaded, could not be, or stops.
        """
        if self.state == "loading":
            raise NotReadyError("The model is being loaded: ask again in a moment")
        if self.state == "failed":
            raise NotReadyError(f"The model could not be loaded: {self.failure}")
        if self.state == "stopping":
            raise NotReadyError("The server is stopping: ask another, or this one after its restart")
        return self._engine

    @property
    def loaded(self) -> Any | None:
        """The engine where there is one, also while it stops."""
        return self._engine

    def stop_accepting(self) -> None:
        """Draw nothing new from now on."""
        self.state = "stopping"

    def close(self) -> None:
        """Give up what is still drawn, and let go of the engine."""
        self.stop_accepting()
        if self._thread is not None:
            self._thread.join(self._settings.shutdown_limit)
        if self._engine is not None and not self._given:
            self._engine.close(drain=False)

    def _load(self) -> None:
        settings = self._settings
        try:
            engines = [
                LocalEngine(
                    load_worker(settings=settings),
                    batching=settings.batching,
                    queue_limit=settings.queue_max,
                    previews=True,
                )
                for _ in range(settings.num_workers)
            ]
        except ImagegenError as error:
            self._fail(str(error))
        except Exception as error:
            logger.exception("The model could not be loaded")
            self._fail(f"{type(error).__name__}: {error}")
        else:
            self._engine = engines[0] if len(engines) == 1 else Pool(engines, settings.queue_max)
            if self.state == "loading":
                self.state = "ready"
            logger.info("The model is ready: %s", engines[0].report().because)

    def _fail(self, why: str) -> None:
        logger.error("The model could not be loaded: %s", why)
        self.failure, self.state = why, "failed"
