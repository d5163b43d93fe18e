"""The shared state of the routes: engine, store, upscalers, limits, jobs and metrics."""

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

from imagegen_core.backend import Backend
from imagegen_core.engine import Ticket
from imagegen_core.errors import (
    DeadlineError,
    ImagegenError,
    InvalidRequestError,
    NotReadyError,
    QueueFullError,
    StorageError,
)
from imagegen_core.hosting.mode_manager import ModeManager
from imagegen_core.hosting.model_card import ModelCard
from imagegen_core.modes import Mode
from imagegen_core.picture_files.input_picture import InputPicture
from imagegen_core.plugins.registry import Registry
from imagegen_core.request import GenerateRequest, ResolvedRequest, Size, check_request, shown
from imagegen_core.resolution.parameters import complete_parameters
from imagegen_core.server.a1111.options import CallersOptions
from imagegen_core.server.a1111.progress import DrawingProgress
from imagegen_core.server.jobs import Jobs
from imagegen_core.server.metrics import Metrics
from imagegen_core.server.request_limits import RequestLimits
from imagegen_core.server.upscaling_queue import UpscalingQueue, Work, finished
from imagegen_core.server.waiting import retrieve, unless_gone
from imagegen_core.settings import Settings
from imagegen_core.storage import DISABLED, ImageStore, new_key

logger = logging.getLogger(__name__)

Request = TypeVar("Request", bound=GenerateRequest)
Result = TypeVar("Result")

_STOPPED = "The server stopped before the picture was done: ask again"
_STORE_THREADS = 16
_MASK_THREADS = 1  # it unpacks whole pictures, so one at a time bounds the memory
_HOOK_THREADS = 64  # a plugin that waits for another server delays few other requests
_WAITING_BODIES = 8  # maximum number of waiting pictures of the largest size; limits the queue's memory
_DEFAULTS = {
    "size": "default_size",
    "num_inference_steps": "default_steps",
    "guidance_scale": "default_guidance",
}


class ServerContext:
    """The shared parts of one server.

    Attributes:
        settings: The server's settings.
        registry: The plugins.
        limits: The limits on a single request.
        mode_manager: The modes and their engines.
        store: The store of pictures; None if storage is disabled.
        upscalers: The available upscalers.
        upscalings: The queue of pictures to enlarge.
        jobs: The posted jobs.
        metrics: The server's metrics.
        runs: The pictures in progress of A1111's routes.
        options: The options set by A1111's clients.
        hooks: The plugins' hooks around jobs.
    """

    def __init__(self, settings: Settings, registry: Registry, mode_manager: ModeManager) -> None:
        """Open the store. `ModeManager.start` loads the model later.

        Raises:
            ImagegenError: The configured store or upscaler is unusable.
        """
        self.settings, self.registry = settings, registry
        self.limits = RequestLimits(settings)
        self.mode_manager = mode_manager
        self.store: ImageStore | None = None
        if settings.storage_provider != DISABLED:
            self.store = registry.store(settings.storage_provider).load(settings)
        self.upscalers = mode_manager.models.enlarging()
        self.upscalings = UpscalingQueue(
            settings.queue_max, _WAITING_BODIES * settings.max_body_bytes, self.upscalers.together
        )
        self.jobs = Jobs(settings.storage_max_items, settings.storage_ttl_image, settings.storage_max_bytes)
        self.metrics = Metrics(self.mode_manager, self.upscalings)
        self.runs = DrawingProgress()
        self.options = CallersOptions()
        self.hooks = registry.hooks
        self._open: Counter[str] = Counter()
        self._store_threads = anyio.CapacityLimiter(_STORE_THREADS)
        self._mask_threads = anyio.CapacityLimiter(_MASK_THREADS)
        self._hook_threads = anyio.CapacityLimiter(_HOOK_THREADS)
        self._tickets: dict[Future[Any], Ticket] = {}  # unfinished tickets

    def card(self, mode: Mode | None = None) -> ModelCard:
        """Return a short description of a mode's model; None is the default mode.

        Raises:
            NotReadyError: The model is not loaded.
        """
        return self.mode_manager.card(mode or self.mode_manager.modes.find(None))

    def checkpoints(self) -> dict[str, Mode]:
        """Return the modes by all their checkpoint names; a mode's first name is its title.

        Raises:
            NotReadyError: The model is not loaded.
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
        """Check a request, and fill in the mode's, the server's and the parameters' defaults for missing fields.

        Raises:
            InvalidRequestError: The request exceeds the server's limits, or has a field that nobody declares.
        """
        self.limits.check_length(request.prompt, "prompt")
        self.limits.check_length(request.negative_prompt or "", "negative_prompt")
        backend = self.backend(mode)
        request = mode.complete(request)
        left_out = {
            field: value
            for field, setting in _DEFAULTS.items()
            if field not in request.model_fields_set
            and not (field == "size" and request.image is not None)  # an image has its own size
            and (value := getattr(self.settings, setting)) is not None
            and (backend is None or field not in backend.lacking)
        }
        filled = request.model_copy(update=left_out)
        completed = complete_parameters(filled, self.registry.parameters, backend, mode)
        self._check(completed, mode)
        return completed

    async def final(self, requests: Sequence[Request], mode: Mode) -> list[Request]:
        """Pass completed requests through the plugins' `imagegen_request`, and check the results.

        Raises:
            InvalidRequestError: A plugin refuses a request, or the changed request exceeds the server's limits.
            PluginError: A plugin failed.
        """
        if not self.hooks.changes_requests:
            return [*requests]
        changing = (
            anyio.to_thread.run_sync(self.hooks.request, request, limiter=self._hook_threads) for request in requests
        )
        changed: list[Request] = await asyncio.gather(*changing)
        for request in changed:
            self._check(request, mode)
        return changed

    def backend(self, mode: Mode) -> Backend | None:
        """Return a mode's backend; None if it is not known before its model is loaded."""
        try:
            return self.registry.backends.get(self.card(mode).backend or "")
        except ImagegenError:
            return None

    def fields(self, mode: Mode) -> list[str]:
        """Return the request's fields that a mode's model takes; all fields if its model is not known yet."""
        backend = self.backend(mode)
        lacking = self.card(mode).lacking if backend else ()
        return [
            name for name in (backend.supported if backend else GenerateRequest.model_fields) if name not in lacking
        ]

    def _check(self, request: GenerateRequest, mode: Mode) -> None:
        self.limits.check_length(request.prompt, "prompt")
        self.limits.check_length(request.negative_prompt or "", "negative_prompt")
        resolved = check_request(request)
        self._check_stage(resolved, mode)
        if resolved.second_stage is not None:
            try:
                self._check_stage(resolved.second_stage, mode)
            except InvalidRequestError as error:
                raise resolved.hires.renamed(error) from error
        self._refiner(request)

    def _refiner(self, request: GenerateRequest) -> Mode | None:
        """Return the mode of a request's refiner; None without a refiner.

        Raises:
            InvalidRequestError: There is no such mode, or it has LoRAs.
            NotReadyError: The model is not loaded.
        """
        if not request.refiner:
            return None
        mode = self.checkpoints().get(request.refiner)
        if mode is None:
            names = ", ".join(self.mode_manager.modes.modes)
            raise InvalidRequestError(f"Unknown refiner {shown(request.refiner)}: expected one of {names}", "refiner")
        mode.check_refines()
        return mode

    def _check_stage(self, resolved: ResolvedRequest, mode: Mode) -> None:
        self.limits.check(resolved)
        try:
            card = self.card(mode)
        except ImagegenError:
            return  # `submit` answers the request with the reason
        card.check_sampling(resolved, self.registry.samplers.values())

    def size_of(self, request: GenerateRequest, mode: Mode) -> Size:
        """Return the size of a completed request's picture; the default is the model's native size.

        Raises:
            NotReadyError: The model is not loaded, so its native size is unknown.
        """
        return ResolvedRequest.of(request, native_size=self.card(mode).size or request.size).size

    def submit(self, request: GenerateRequest, caller: str, mode: Mode) -> Ticket:
        """Submit a caller's request to a mode's model.

        Args:
            request: The result of `complete` and `final`.
            caller: The name of the API key's owner.
            mode: The mode given to `complete`.

        Raises:
            NotReadyError: There is no engine.
            QueueFullError: Too many requests or input pictures wait, from this caller or in total.
            InvalidRequestError: The model cannot draw this request.
        """
        self._check_share(caller)
        self._check_room(request)
        refiner = self._refiner(request)
        ticket = self.mode_manager.submit(mode, request, self.settings.default_timeout, refiner)
        if self.settings.log_prompts:
            logger.info("Drawing %r", request.prompt)
        self._open[caller] += 1
        self._tickets[ticket.job.fut] = ticket
        ticket.events.listen(partial(self.hooks.tell, ticket.job))
        ticket.job.fut.add_done_callback(partial(self._note_end, caller, mode.name))
        return ticket

    def submit_all(self, requests: Sequence[GenerateRequest], caller: str, mode: Mode) -> list[Ticket]:
        """Submit all requests, or none of them; see `submit`."""
        tickets: list[Ticket] = []
        try:
            for request in requests:
                tickets.append(self.submit(request, caller, mode))  # noqa: PERF401 - an error cancels those before
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
        """Enlarge a caller's picture, and stop if the client hangs up.

        Args:
            request: The client's request; None if the client does not wait.
            caller: The name of the API key's owner.
            work: The function to enlarge the picture.
            since: `time.monotonic` seconds of the request for a picture drawn here; a full queue does not refuse such
                a picture. None for an uploaded picture.
            weight: Bytes of memory of an uploaded picture while it waits.

        Raises:
            ClientGoneError: The client hung up.
            NotReadyError: The server is stopping.
            QueueFullError: Too many pictures wait, from this caller or in total.
            ImagegenError: The upscaler failed, or the time limit passed.
        """
        if since is None:
            self._check_share(caller)
            if self.mode_manager.state == "stopping":
                raise NotReadyError("The server is stopping: send the request to another server, or after its restart")
            future = self.upscalings.submit(work, weight)
            since = time.monotonic()
        else:
            future = self.upscalings.submit(work, always=True)
        self._open[caller] += 1
        try:
            running = finished(future, since + self.settings.default_timeout)
            return await (running if request is None else unless_gone(request, running))
        except DeadlineError:
            self.metrics.failed("deadline")
            raise
        finally:
            future.cancel()  # no effect on finished work
            self._let_go(caller)

    async def done(self) -> None:
        """Wait for the end of all work in progress."""
        while making := [asyncio.wrap_future(future) for future in [*self._tickets, *self.upscalings.open()]]:
            for future in making:
                future.add_done_callback(retrieve)
            await asyncio.wait(making)
        if jobs := [job.result for job in self.jobs.open()]:
            await asyncio.wait(jobs)

    def give_up(self) -> None:
        """Fail all work in progress, because the server stops."""
        for ticket in [*self._tickets.values()]:
            ticket.fail(NotReadyError(_STOPPED))
        self.upscalings.give_up(NotReadyError(_STOPPED))

    async def keep(self, data: bytes, caller: str) -> str | None:
        """Store a caller's picture under a new key; return None if storage is disabled or fails."""
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
        """Call the store on the threads reserved for it."""
        return await anyio.to_thread.run_sync(function, *arguments, limiter=self._store_threads)

    async def masking(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function that unpacks input pictures, on the thread reserved for it."""
        return await anyio.to_thread.run_sync(function, *arguments, limiter=self._mask_threads)

    def _note_end(self, caller: str, mode: str, future: Future[Any]) -> None:
        ticket = self._tickets.pop(future)
        self._let_go(caller)
        self.metrics.ended(ticket, future, mode)

    def _check_share(self, caller: str) -> None:
        limit = self.settings.queue_per_key
        if caller and limit is not None and self._open[caller] >= limit:
            raise QueueFullError(f"{limit} of your requests are not done yet: wait until one is done", retry_after=1)

    def _check_room(self, request: GenerateRequest) -> None:
        """Refuse more input pictures than the waiting requests may hold in memory together."""
        added = [picture for picture in (request.image, request.mask) if isinstance(picture, InputPicture)]
        held = [getattr(ticket.job.req, name, None) for ticket in self._tickets.values() for name in ("image", "mask")]
        sizes = {id(picture): len(picture.data) for picture in held if isinstance(picture, InputPicture)}
        new = sum(len(picture.data) for picture in added if id(picture) not in sizes)
        if new and sizes and sum(sizes.values()) + new > _WAITING_BODIES * self.settings.max_body_bytes:
            raise QueueFullError("The input pictures of waiting requests fill the memory: ask again", retry_after=1)

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
    """Return a checkpoint's file name, with and without its suffix."""
    return {Path(path).name, Path(path).stem} - {""}
