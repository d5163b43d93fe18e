"""A Ray Serve replica: the models of one process with their engines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from ray import serve

from imagegen_core.cluster.plans import Handshake, refused
from imagegen_core.cluster.serialization import portable, portable_error
from imagegen_core.errors import EngineClosedError, ImagegenError
from imagegen_core.hosting.model_host import HostReport, LocalModelHost
from imagegen_core.hosting.upscaling import Enlarged, Format
from imagegen_core.job import Event, Failed
from imagegen_core.modes import Mode, ModelKey
from imagegen_core.numerics import NumericsPlan
from imagegen_core.plugins.registry import Registry
from imagegen_core.request import GenerateRequest
from imagegen_core.server.log import log_as_json
from imagegen_core.settings import Settings

Result = TypeVar("Result")

_ANY = -1  # Ray Serve's value for an unlimited number of models


def model_id(key: ModelKey) -> str:
    """Return Ray Serve's id of a model; it routes a request to a replica with that model."""
    return "|".join(part or "" for part in key)


class Replica:
    """Draw requests from the ingress, several at once and in any mode, like a server in one process.

    Ray Serve tracks the loaded models with `serve.multiplexed`, and sends each request to a replica with its model. The
    maximum number of models is the memory budget divided by the first model's measured size.
    """

    async def __init__(self, settings: Settings, first: Mode) -> None:  # type: ignore[misc] # Ray Serve awaits it
        """Load the default mode's model; after that, the replica counts as started.

        Args:
            settings: The ingress's settings.
            first: The default mode.

        Raises:
            ImagegenError: The model cannot be loaded.
        """
        log_as_json()
        self._name = serve.get_replica_context().replica_tag
        registry = Registry.discover()
        self._hooks = registry.hooks
        await asyncio.to_thread(self._hooks.start, settings)
        self._models = LocalModelHost(settings, registry)
        self._enlarging = self._models.enlarging()
        self._modes: dict[str, Mode] = {}
        self._broken = ""
        self._refused: dict[ModelKey, str] = {}
        await asyncio.to_thread(self._models.load, first)

        async def hold(model: str) -> _Held:
            mode = self._modes[model]
            await asyncio.to_thread(self._models.load, mode)
            return _Held(lambda: self._models.dismiss(mode))

        self._hold: Callable[[str], Any] = serve.multiplexed(hold, max_num_models_per_replica=self._room())
        await self._have(first)

    async def draw(
        self, mode: Mode, request: GenerateRequest, deadline: float | None, agreed: NumericsPlan | None
    ) -> AsyncIterator[Handshake | Event]:
        """Draw a request in a mode; yield a handshake, then its events. Closing the generator cancels the request.

        Args:
            mode: The mode.
            request: The request.
            deadline: See `ModelHost.submit`.
            agreed: The numerics plan of the other replicas; this replica refuses to draw by another plan.
        """
        try:
            await self._have(mode)
            card = self._models.card(mode)
            own = card.numerics if card else None
            self._refused[mode.key] = refused(agreed, own, self._name) if agreed and own else ""
            yield Handshake(self._name, own)
            if self._refused[mode.key]:
                return
            ticket = self._models.submit(mode, request, deadline)
        except ImagegenError as error:
            yield portable(Failed(error))
            return
        try:
            async for event in ticket.events:
                if isinstance(event, Failed) and isinstance(event.error, EngineClosedError):
                    self._broken = str(event.error)
                yield portable(event)
        finally:
            ticket.cancel()

    async def load(self, mode: Mode) -> Exception | None:
        """Load a mode's model and its LoRAs; return None, or the error."""
        try:
            await self._have(mode)
            await asyncio.to_thread(self._models.load, mode)
        except ImagegenError as error:
            return portable_error(error)
        return None

    async def tell(self) -> HostReport:
        """Return the report of this replica."""
        (host,) = await asyncio.to_thread(self._models.hosts)
        return replace(host, name=self._name)

    async def keep_only(self, keys: Collection[ModelKey]) -> None:
        """Unload all other models, each after its open requests."""
        self._models.keep_only(keys)

    async def enlarge(self, source: bytes, passes: int, form: Format, quality: int) -> Enlarged | Exception:
        """See `Upscalers.enlarge`; an error is returned."""
        return await _outcome(partial(self._enlarging.enlarge, source, passes, form, quality))

    async def enlarge_to(self, source: bytes, wanted: tuple[int, int], name: str, crop: bool) -> bytes | Exception:
        """See `Upscalers.enlarge_to`; an error is returned."""
        return await _outcome(partial(self._enlarging.enlarge_to, source, wanted, name, crop=crop))

    async def check_health(self) -> None:
        """Check this replica for Ray Serve, which replaces it after an exception.

        Raises:
            RuntimeError: A step hangs, an engine broke and its model could not be loaded again, or this replica would
                draw other bytes than the others.
        """
        for refusal in filter(None, self._refused.values()):
            raise RuntimeError(refusal)
        if self._broken and not any(host.entries for host in self._models.hosts()):
            raise RuntimeError(self._broken)
        report = self._models.report()
        if report is not None and report.stuck:
            raise RuntimeError(f"A step has been running for {report.stuck:.0f} s longer than it may")

    def __del__(self) -> None:
        """Let the plugins clean up; Ray Serve calls this at the replica's end."""
        if hasattr(self, "_hooks"):
            self._hooks.stop()

    async def _have(self, mode: Mode) -> None:
        """Load a mode's model, and register it with Ray Serve."""
        model = model_id(mode.key)
        self._modes[model] = mode
        await self._hold(model)

    def _room(self) -> int:
        """Return how many models of the first model's size fit in the budget."""
        (host,) = self._models.hosts()
        size = max((resident.size for resident in host.entries), default=0)
        return _ANY if host.budget is None or not size else max(1, host.budget // size)


class _Held:
    """Ray Serve's record of a loaded model; Ray Serve calls `__del__` to remove the record."""

    def __init__(self, let_go: Callable[[], None]) -> None:
        self._let_go = let_go
        self._once = threading.Lock()

    def __del__(self) -> None:
        if self._once.acquire(blocking=False):
            self._let_go()


async def _outcome(enlarge: Callable[..., Result]) -> Result | Exception:
    """Upscale, and return the result or the error; stop the work if the caller disconnects."""
    until: Future[None] = Future()
    try:
        return await asyncio.to_thread(enlarge, until=until)
    except ImagegenError as error:
        return portable_error(error)
    finally:
        until.cancel()
