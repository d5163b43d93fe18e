"""The front's side of the wire: the same models, on whichever replica Ray Serve chooses."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Collection, Coroutine
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar

from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from imagegen_core.cluster.drawer import model_id
from imagegen_core.cluster.upscaling import RemoteUpscalers
from imagegen_core.engine import EngineReport, Ticket
from imagegen_core.engine.report import merged
from imagegen_core.errors import (
    DeadlineError,
    EngineClosedError,
    ImagegenError,
    InvalidRequestError,
    NotReadyError,
    QueueFullError,
)
from imagegen_core.job import Cancelled, Done, Failed, Queued, Started
from imagegen_core.modes import Mode, ModelKey
from imagegen_core.plugins.registry import Registry
from imagegen_core.request import Drawing, GenerateRequest
from imagegen_core.server.model_card import ModelCard
from imagegen_core.server.models import Host
from imagegen_core.server.upscaling import Enlarging
from imagegen_core.settings import Settings

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_ATTEMPTS = 5  # a request that kills whoever draws it is given up then
_PAUSE = 0.2  # seconds before the second attempt; twice as long before the third, and so on
_ASK_EVERY = 2.0  # seconds between two rounds of asking the replicas how they are
_ASK_EACH = 0.02  # seconds, where there are so many that a round would keep the front busy
_ANSWER_LIMIT = 10.0
_RETRY_AFTER = 1.0


class LostError(Exception):
    """The replica that had the request is gone."""


class ClusterModels:
    """Sends each request to a replica, follows it there, and sends it again where the replica is lost.

    A request gets its seed before it is sent, so a picture is the same wherever, and however often, it is begun.
    """

    def __init__(self, handle: DeploymentHandle[Any], settings: Settings, registry: Registry) -> None:
        """Begin to ask the replicas how they are.

        Args:
            handle: The deployment of `Drawer`.
            settings: How many requests may wait, and what enlarges.
            registry: The plugins.
        """
        self._handle, self._settings, self._registry = handle, settings, registry
        self._open: set[Ticket] = set()
        self._ended: Counter[str] = Counter()
        self._changed = threading.Lock()
        self._closed = False
        self._hosts: tuple[Host, ...] = ()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="imagegen-cluster", daemon=True)
        self._thread.start()
        self._asking = self._start(self._keep_asking())

    def submit(self, mode: Mode, request: GenerateRequest, deadline: float | None) -> Ticket:
        """Have a request drawn in a mode.

        Raises:
            QueueFullError: Too many have not begun.
            InvalidRequestError: The request asks for what no worker could draw.
            EngineClosedError: This was closed.
        """
        seed = Drawing.of(request, native_size="8x8").seed
        ticket = Ticket.of(request.model_copy(update={"seed": seed}), 0, deadline)
        with self._changed:
            if self._closed:
                raise EngineClosedError("The engine is closed: it takes no more requests")
            waiting = self._waiting()
            if waiting >= self._settings.queue_max:
                raise QueueFullError(f"{waiting} requests wait already: try again in a moment", _RETRY_AFTER)
            self._open.add(ticket)
        ticket.wait_at(waiting + 1)
        drawing = self._start(self._draw(mode, ticket))
        ticket.job.fut.add_done_callback(lambda future: self._note_end(ticket, future, drawing))
        return ticket

    def bring(self, mode: Mode) -> None:
        """Return once one replica has loaded a mode's model and its LoRAs; on any thread but a server's.

        Raises:
            ImagegenError: They cannot be, and why.
        """
        self._start(self._bring(mode)).result()

    def card(self, mode: Mode) -> ModelCard | None:
        """A mode's model in a few words, as a replica tells it; None where none has it."""
        return next((host.cards[mode.key] for host in self._hosts if mode.key in host.cards), None)

    def unload(self, mode: Mode) -> bool:
        """Refuse.

        Raises:
            InvalidRequestError: Always.
        """
        raise InvalidRequestError(
            f"Mode {mode.name} cannot be unloaded by hand here: Ray Serve decides which replicas hold which models, "
            "and lets go of the one used longest ago where another is wanted",
            "mode",
        )

    def keep_only(self, keys: Collection[ModelKey]) -> None:
        """Have all replicas let go of all other models, each once it has no work in hand."""
        self._start(self._broadcast("keep_only", keys))

    def hosts(self) -> tuple[Host, ...]:
        """The replicas, as of a moment ago."""
        return self._hosts

    def report(self) -> EngineReport | None:
        """What the replicas do, with this side's counts, which outlive replicas; None where none has answered."""
        reports = [host.engine for host in self._hosts if host.engine is not None]
        if not reports:
            return None
        with self._changed:
            waiting = self._waiting()
            return replace(
                merged(reports),
                waiting=waiting,
                running=len(self._open) - waiting,
                finished=self._ended["finished"],
                failed=self._ended["failed"],
                cancelled=self._ended["cancelled"],
            )

    def enlarging(self) -> Enlarging:
        """Upscalers that compute on the replicas.

        Raises:
            ModelNotFoundError: The configured upscaler is not there.
        """
        return RemoteUpscalers(self._settings, self._registry, self.call)

    def call(self, method: str, *arguments: Any) -> Any:
        """What a method of a replica returns, or raise the error that it returns; on any thread but a server's.

        Raises:
            ImagegenError: The replica's, or no replica could do it.
        """
        result = self._start(self._call(method, *arguments)).result()
        if isinstance(result, Exception):
            raise result
        return result

    def close(self, limit: float) -> None:
        """Give up what is still drawn."""
        with self._changed:
            self._closed = True
            left = [*self._open]
        for ticket in left:
            ticket.fail(EngineClosedError("The engine is closed: it takes no more requests"))
        self._asking.cancel()
        self._start(self._end()).result(limit)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _start(self, coroutine: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Run on this side's own loop, and apart from the HTTP request, whose end would end what it asked for."""
        return contextvars.Context().run(asyncio.run_coroutine_threadsafe, coroutine, self._loop)

    def _waiting(self) -> int:
        """How many have not begun; under the lock."""
        return sum(ticket.events.when(Started) is None for ticket in self._open)

    def _note_end(self, ticket: Ticket, future: Future[Any], drawing: Future[None]) -> None:
        ended = "cancelled" if future.cancelled() else "finished" if future.exception() is None else "failed"
        with self._changed:
            self._open.discard(ticket)
            self._ended[ended] += 1
        drawing.cancel()  # of what has ended by itself, nothing

    async def _draw(self, mode: Mode, ticket: Ticket) -> None:
        try:
            async with asyncio.timeout(ticket.deadline):
                await self._draw_somewhere(mode, ticket)
        except TimeoutError:
            ticket.expire(math.inf)
        except ImagegenError as error:
            ticket.fail(error)
        except Exception as error:
            logger.exception("A picture failed")
            ticket.fail(error)

    async def _draw_somewhere(self, mode: Mode, ticket: Ticket) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                await self._follow(mode, ticket)
            except (LostError, RayActorError) as error:
                said = (str(error) or type(error).__name__).splitlines()[0]
                logger.warning("A replica was lost, and what it drew is drawn again: %s", said)
                await asyncio.sleep(_PAUSE * attempt)
            except DeploymentUnavailableError as error:
                raise NotReadyError(_UNAVAILABLE) from error
            else:
                return
        raise ImagegenError(
            f"{_ATTEMPTS} replicas were lost, one after another, while they drew this picture: ask for another, and "
            "look into the replicas' logs"
        )

    async def _follow(self, mode: Mode, ticket: Ticket) -> None:
        """Have a replica draw, and tell the ticket what happens there.

        Raises:
            LostError, RayActorError: The replica is gone before the picture was there.
        """
        left = None if ticket.deadline is None else ticket.since + ticket.deadline - time.monotonic()
        handle: Any = self._handle.options(stream=True, multiplexed_model_id=model_id(mode.key))
        stream = handle.draw.remote(mode, ticket.job.req, left)
        try:
            async for event in stream:
                match event:
                    case Queued(place):
                        ticket.wait_at(place)
                    case Done(picture):
                        ticket.draw(picture)
                        return
                    case Failed(EngineClosedError() as error):
                        raise LostError(str(error))
                    case Failed(DeadlineError()):
                        raise TimeoutError  # told in this side's words
                    case Failed(error):
                        ticket.fail(error)
                        return
                    case Cancelled():
                        break
                    case _:
                        ticket.events.append(event)
        finally:
            stream.cancel()
        raise LostError("it stopped before the picture was done")

    async def _bring(self, mode: Mode) -> None:
        error = await self._call("bring", mode, key=mode.key)
        if error is not None:
            raise error
        await self._ask()

    async def _call(self, method: str, *arguments: Any, key: ModelKey | None = None) -> Any:
        handle: Any = self._handle
        if key is not None:
            handle = handle.options(multiplexed_model_id=model_id(key))
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await getattr(handle, method).remote(*arguments)
            except RayActorError:
                await asyncio.sleep(_PAUSE * attempt)
            except (RayServeException, RayError) as error:
                raise NotReadyError(_UNAVAILABLE) from error
        raise NotReadyError(_UNAVAILABLE)

    async def _broadcast(self, method: str, *arguments: Any) -> list[Any]:
        """What all replicas return, without those that do not answer."""
        try:
            answers = await self._handle.broadcast(method, *arguments).results_async(
                timeout_s=_ANSWER_LIMIT, return_exceptions=True
            )
        except (RayServeException, RayError, TimeoutError) as error:
            logger.debug("The replicas could not be asked: %r", error)
            return []
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    async def _ask(self) -> None:
        hosts: list[Host] = await self._broadcast("tell")
        self._hosts = tuple(sorted(hosts, key=lambda host: host.name))

    async def _keep_asking(self) -> None:
        while True:
            await self._ask()
            await asyncio.sleep(max(_ASK_EVERY, _ASK_EACH * len(self._hosts)))

    async def _end(self) -> None:
        """Let what was cancelled end."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


_UNAVAILABLE = "No replica can draw: `serve status` says why"
