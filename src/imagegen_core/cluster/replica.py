"""A replica that draws: the models of one process, with their engines, behind a wire."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from ray import serve

from imagegen_core.cluster.serialization import portable, portable_error
from imagegen_core.errors import EngineClosedError, ImagegenError
from imagegen_core.hosting.model_host import HostReport, LocalModelHost
from imagegen_core.hosting.upscaling import Enlarged, Format
from imagegen_core.job import Event, Failed
from imagegen_core.modes import Mode, ModelKey
from imagegen_core.plugins.registry import Registry
from imagegen_core.request import GenerateRequest
from imagegen_core.server.log import log_as_json
from imagegen_core.settings import Settings

Result = TypeVar("Result")

_ANY = -1  # as Ray Serve writes that a replica may hold any number of models


def model_id(key: ModelKey) -> str:
    """What Ray Serve calls a model when it looks for a replica that has it."""
    return "|".join(part or "" for part in key)


class Replica:
    """Draws what the front sends, as a server in one process would: several requests at once, in any mode.

    Ray Serve keeps book of the models it holds, by `serve.multiplexed`, and sends a request to a replica that has its
    model. How many it may hold is measured: as many of the first one's size as the memory budget takes.
    """

    async def __init__(self, settings: Settings, first: Mode) -> None:  # type: ignore[misc] # Ray Serve awaits it
        """Load the default mode's model; the replica counts as started when it is there.

        Args:
            settings: As the front has them.
            first: The default mode.

        Raises:
            ImagegenError: It cannot be loaded.
        """
        log_as_json()
        self._name = serve.get_replica_context().replica_tag
        self._models = LocalModelHost(settings, Registry.discover())
        self._enlarging = self._models.enlarging()
        self._modes: dict[str, Mode] = {}
        self._broken = ""
        await asyncio.to_thread(self._models.bring, first)

        async def hold(model: str) -> _Held:
            mode = self._modes[model]
            await asyncio.to_thread(self._models.bring, mode)
            return _Held(lambda: self._models.dismiss(mode))

        self._hold: Callable[[str], Any] = serve.multiplexed(hold, max_num_models_per_replica=self._room())
        await self._have(first)

    async def draw(self, mode: Mode, request: GenerateRequest, deadline: float | None) -> AsyncIterator[Event]:
        """Draw a request in a mode, telling what happens; who stops to listen cancels it."""
        try:
            await self._have(mode)
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

    async def bring(self, mode: Mode) -> Exception | None:
        """Return once a mode's model and its LoRAs are loaded, or why they cannot be."""
        try:
            await self._have(mode)
            await asyncio.to_thread(self._models.bring, mode)
        except ImagegenError as error:
            return portable_error(error)
        return None

    async def tell(self) -> HostReport:
        """What there is to tell of this replica."""
        (host,) = await asyncio.to_thread(self._models.hosts)
        return replace(host, name=self._name)

    async def keep_only(self, keys: Collection[ModelKey]) -> None:
        """Let go of all other models, each once it has no work in hand."""
        self._models.keep_only(keys)

    async def enlarge(
        self, source: bytes, passes: int, form: Format, quality: int, name: str | None
    ) -> Enlarged | Exception:
        """See `Upscalers.enlarge`; an error is returned."""
        return await _told(partial(self._enlarging.enlarge, source, passes, form, quality, name))

    async def enlarge_to(self, source: bytes, wanted: tuple[int, int], name: str, crop: bool) -> bytes | Exception:
        """See `Upscalers.enlarge_to`; an error is returned."""
        return await _told(partial(self._enlarging.enlarge_to, source, wanted, name, crop=crop))

    async def check_health(self) -> None:
        """Asked by Ray Serve, which replaces a replica that raises here.

        Raises:
            RuntimeError: A step hangs, or an engine broke and its model could not be loaded anew.
        """
        if self._broken and not any(host.residents for host in self._models.hosts()):
            raise RuntimeError(self._broken)
        report = self._models.report()
        if report is not None and report.stuck:
            raise RuntimeError(f"A step has been running for {report.stuck:.0f} s longer than it may")

    async def _have(self, mode: Mode) -> None:
        """Have a mode's model here, in Ray Serve's book too."""
        model = model_id(mode.key)
        self._modes[model] = mode
        await self._hold(model)

    def _room(self) -> int:
        """How many models of the first one's size the budget takes."""
        (host,) = self._models.hosts()
        size = max((one.size for one in host.residents), default=0)
        return _ANY if host.budget is None or not size else max(1, host.budget // size)


class _Held:
    """A model's line in Ray Serve's book, which calls `__del__` when it crosses it out."""

    def __init__(self, let_go: Callable[[], None]) -> None:
        self._let_go = let_go
        self._once = threading.Lock()

    def __del__(self) -> None:
        if self._once.acquire(blocking=False):
            self._let_go()


async def _told(enlarge: Callable[..., Result]) -> Result | Exception:
    """What enlarging gives, or its error; where the front hangs up, the work ends."""
    until: Future[None] = Future()
    try:
        return await asyncio.to_thread(enlarge, until=until)
    except ImagegenError as error:
        return portable_error(error)
    finally:
        until.cancel()
