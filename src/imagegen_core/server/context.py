"""What the routes share: the engine, the store, the upscalers, and the limits on what may be asked."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import anyio
import anyio.to_thread
from fastapi import Depends
from fastapi import Request as HttpRequest

from imagegen_core.engine import Ticket
from imagegen_core.errors import (
    DeadlineError,
    ImagegenError,
    NotReadyError,
    QueueFullError,
    StorageError,
)
from imagegen_core.hosting.mode_manager import ModeManager
from imagegen_core.hosting.model_card import ModelCard
from imagegen_core.modes import Mode
from imagegen_core.plugins.registry import Registry
from imagegen_core.request import GenerateRequest, ResolvedRequest, Size, check_request
from imagegen_core.server.a1111.options import CallersOptions
from imagegen_core.server.a1111.progress import DrawingProgress
from imagegen_core.server.jobs import Jobs
from imagegen_core.server.metrics import Metrics
from imagegen_core.server.request_limits import RequestLimits
from imagegen_core.server.upscaling_queue import UpscalingQueue, Work
from imagegen_core.server.waiting import retrieve, unless_gone
from imagegen_core.settings import Settings
from imagegen_core.storage import ImageStore, new_key

logger = logging.getLogger(__name__)

Request = TypeVar("Request", bound=GenerateRequest)
Result = TypeVar("Result")

_DISABLED = "disabled"
_STOPPED = "The server stopped before the picture was done: ask again"
_STORE_THREADS = 16
_WAITING_BODIES = 8  # of the largest size, that may be in memory while they wait to be enlarged
_DEFAULTS = {
    "size": "default_size",
    "num_inference_steps": "default_steps",
    "guidance_scale": "default_guidance",
}


class ServerContext:
    """One server's shared parts.

    Attributes:
        settings: How it serves.
        registry: The plugins.
        limits: The most that a request may ask for.
        mode_manager: The modes, and the engines that draw them.
        store: Where pictures are kept; None where storage is disabled.
        upscalers: What enlarges.
        upscalings: The line of what is to be enlarged.
        jobs: The jobs that were posted to be fetched later.
        metrics: What is counted.
        runs: What A1111's routes have drawn at the moment.
        options: The options that A1111's clients set.
    """

    def __init__(self, settings: Settings, registry: Registry, mode_manager: ModeManager) -> None:
        """Open the store; the model is loaded by `ModeManager.start`.

        Raises:
            ImagegenError: The store or the upscaler that is configured cannot be used.
        """
        self.settings, self.registry = settings, registry
        self.limits = RequestLimits(settings)
        self.mode_manager = mode_manager
        self.store: ImageStore | None = None
        if settings.storage_provider != _DISABLED:
            self.store = registry.store(settings.storage_provider).load(settings)
        self.upscalers = mode_manager.models.enlarging()
        self.upscalings = UpscalingQueue(
            settings.queue_max, _WAITING_BODIES * settings.max_body_bytes, self.upscalers.together
        )
        self.jobs = Jobs(settings.storage_max_items, settings.storage_ttl_image, settings.storage_max_bytes)
        self.metrics = Metrics(self.mode_manager, self.upscalings)
        self.runs = DrawingProgress()
        self.options = CallersOptions()
        self._open: Counter[str] = Counter()
        self._store_threads = anyio.CapacityLimiter(_STORE_THREADS)
        self._tickets: dict[Future[Any], Ticket] = {}  # those that are not done

    def card(self, mode: Mode | None = None) -> ModelCard:
        """A mode's model in a few words; None is the default mode.

        Raises:
            NotReadyError: There is none yet, or no longer.
        """
        return self.mode_manager.card(mode or self.mode_manager.modes.find(None))

    def checkpoints(self) -> dict[str, Mode]:
        """Return the modes by each name that clients know their checkpoints by; a mode's first name is its title.

        Raises:
            NotReadyError: There is no model yet, or no longer.
        """
        modes = self.mode_manager.modes
        if not modes.configured:
            card, only = self.card(), modes.find(None)
            return dict.fromkeys((card.title, card.name, *_file_names(str(card.path or card.name))), only)
        files = [(name, mode) for mode in modes.modes.values() for name in _file_names(mode.settings.model or "")]
        counted = Counter(name for name, _ in files)
        unique = {name: mode for name, mode in files if counted[name] == 1 and name not in modes.modes}
        return {**modes.modes, **unique}

    def complete(self, request: Request, mode: Mode) -> Request:
        """The request, with the mode's and the server's defaults where it leaves a field out, within the limits.

        Raises:
            InvalidRequestError: It asks for more than the server draws.
        """
        self.limits.check_length(request.prompt, "prompt")
        self.limits.check_length(request.negative_prompt or "", "negative_prompt")
        request = mode.complete(request)
        left_out = {
            field: value
            for field, setting in _DEFAULTS.items()
            if field not in request.model_fields_set and (value := getattr(self.settings, setting)) is not None
        }
        completed = request.model_copy(update=left_out)
        drawing = check_request(completed)
        self.limits.check(drawing)
        self._check_sampling(drawing, mode)
        return completed

    def _check_sampling(self, drawing: ResolvedRequest, mode: Mode) -> None:
        try:
            card = self.card(mode)
        except ImagegenError:
            return  # the request itself is answered with why there is no model
        card.check_sampling(drawing, self.registry.samplers.values())

    def size_of(self, request: GenerateRequest, mode: Mode) -> Size:
        """The size that a completed request is drawn at; the model's own where nothing says another.

        Raises:
            NotReadyError: The model, which would say it, is not there.
        """
        return ResolvedRequest.of(request, native_size=self.card(mode).size or request.size).size

    def submit(self, request: GenerateRequest, caller: str, mode: Mode) -> Ticket:
        """Have a mode's model draw a request for a caller.

        Args:
            request: What `complete` returned.
            caller: Whose key it came with.
            mode: The mode it was completed for.

        Raises:
            NotReadyError: There is no engine yet, or no longer.
            QueueFullError: Too many requests wait, the caller's or everybody's.
            InvalidRequestError: The request cannot be drawn.
        """
        self._check_share(caller)
        ticket = self.mode_manager.submit(mode, request, self.settings.default_timeout)
        if self.settings.log_prompts:
            logger.info("Drawing %r", request.prompt)
        self._open[caller] += 1
        self._tickets[ticket.job.fut] = ticket
        ticket.job.fut.add_done_callback(partial(self._note_end, caller, mode.name))
        return ticket

    def submit_all(self, requests: Sequence[GenerateRequest], caller: str, mode: Mode) -> list[Ticket]:
        """Have all of them drawn, or none: see `submit`."""
        tickets: list[Ticket] = []
        try:
            for request in requests:
                tickets.append(self.submit(request, caller, mode))  # noqa: PERF401 - those before the one that fails count
        except ImagegenError:
            for ticket in tickets:
                ticket.cancel()
            raise
        return tickets

    async def upscaled(
        self,
        request: HttpRequest | None,
        caller: str,
        work: Work[Result],
        since: float | None = None,
        weight: int = 0,
    ) -> Result:
        """Have a picture enlarged for a caller, and give it up when the client does.

        Args:
            request: The client's; None where it does not wait.
            caller: Whose key it came with.
            work: Enlarges the picture.
            since: `time.monotonic` seconds at which a picture was asked for that is drawn already, and therefore
                enlarged however many wait; None for one that was sent.
            weight: Bytes of memory that a picture that was sent takes while it waits.

        Raises:
            ClientGoneError: The client hung up.
            NotReadyError: The server stops.
            QueueFullError: Too many wait, the caller's or everybody's.
            ImagegenError: It cannot be enlarged, or not in time.
        """
        if since is None:
            self._check_share(caller)
            self.upscalings.check_room(weight)
            if self.mode_manager.state == "stopping":
                raise NotReadyError("The server is stopping: ask another, or this one after its restart")
            since = time.monotonic()
        self._open[caller] += 1
        try:
            running = self.upscalings.run(work, since + self.settings.default_timeout, weight)
            return await (running if request is None else unless_gone(request, running))
        except DeadlineError:
            self.metrics.failed("deadline")
            raise
        finally:
            self._let_go(caller)

    async def done(self) -> None:
        """Wait until nothing that was asked for is in the making."""
        while making := [asyncio.wrap_future(future) for future in [*self._tickets, *self.upscalings.open()]]:
            for future in making:
                future.add_done_callback(retrieve)
            await asyncio.wait(making)
        if jobs := [job.result for job in self.jobs.open()]:
            await asyncio.wait(jobs)

    def give_up(self) -> None:
        """Cancel whatever is still in the making, with the reason that the server stops."""
        for ticket in [*self._tickets.values()]:
            ticket.fail(NotReadyError(_STOPPED))
        self.upscalings.give_up(NotReadyError(_STOPPED))

    async def keep(self, data: bytes, caller: str) -> str | None:
        """Store a caller's picture under a new key; None where storage is disabled or does not work at the moment."""
        if self.store is None:
            return None
        key = new_key(caller)
        try:
            await self.storing(self.store.put, key, data)
        except StorageError as error:
            logger.warning("A picture was answered and not stored: %s", error)
            self.metrics.failed("storage")
            return None
        return key

    async def storing(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call the store on threads that wait for nothing else."""
        return await anyio.to_thread.run_sync(function, *arguments, limiter=self._store_threads)

    def _note_end(self, caller: str, mode: str, future: Future[Any]) -> None:
        ticket = self._tickets.pop(future)
        self._let_go(caller)
        self.metrics.ended(ticket, future, mode)

    def _check_share(self, caller: str) -> None:
        limit = self.settings.queue_per_key
        if caller and limit is not None and self._open[caller] >= limit:
            raise QueueFullError(f"{limit} of your requests are not done yet: wait for one of them", retry_after=1)

    def _let_go(self, caller: str) -> None:
        self._open[caller] -= 1
        if not self._open[caller]:
            del self._open[caller]


def _context(request: HttpRequest) -> ServerContext:
    return cast("ServerContext", request.app.state.context)


def _caller(request: HttpRequest) -> str:
    return cast("str", request.state.caller)


SharedContext = Annotated[ServerContext, Depends(_context)]
Caller = Annotated[str, Depends(_caller)]


def _file_names(path: str) -> set[str]:
    """A checkpoint's file name, with its suffix and without."""
    return {Path(path).name, Path(path).stem} - {""}
