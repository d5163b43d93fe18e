"""The ingress's model host: sends requests to the replicas of Ray Serve."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Collection
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import replace
from itertools import count
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle

from imagegen_core.cluster.plans import Handshake, PlanMismatchError
from imagegen_core.cluster.replica_client import ATTEMPTS, ReplicaClient, pause
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
    first_line,
)
from imagegen_core.hosting.model_card import ModelCard
from imagegen_core.hosting.model_host import HostReport
from imagegen_core.hosting.upscaling import UpscalerHost
from imagegen_core.job import Done, Event, Failed, Queued, Started, StepDone
from imagegen_core.modes import Mode, ModelKey
from imagegen_core.plugins.registry import Registry
from imagegen_core.request import GenerateRequest, check_request
from imagegen_core.settings import Settings

logger = logging.getLogger(__name__)

_RETRY_AFTER = 1.0


class LostError(Exception):
    """The replica of a request was lost.

    Attributes:
        in_hand: Whether the replica had started on the request, so the request may be the cause.
    """

    def __init__(self, why: str, *, in_hand: bool) -> None:
        super().__init__(why)
        self.in_hand = in_hand


class ClusterModelHost:
    """Send each request to a replica, forward its events, and send it again if the replica is lost.

    Each request gets its seed before it is sent, so every attempt on any replica draws the same picture.
    """

    def __init__(self, handle: DeploymentHandle[Any], settings: Settings, registry: Registry) -> None:
        """Start to poll the replicas.

        Args:
            handle: The deployment of `Replica`.
            settings: The settings, such as the queue limit and the upscaler.
            registry: The plugins.
        """
        self._settings, self._registry = settings, registry
        self._replicas = ReplicaClient(handle)
        self._open: set[Ticket] = set()
        self._waiting: set[Ticket] = set()  # open tickets that have not begun
        self._ended: Counter[str] = Counter()
        self._changed = threading.Lock()
        self._closed = False

    def submit(
        self, mode: Mode, request: GenerateRequest, deadline: float | None, refiner: Mode | None = None
    ) -> Ticket:
        """Submit a request to a replica with the mode's model.

        Raises:
            QueueFullError: The queue is full.
            InvalidRequestError: No worker could draw the request, or it has a refiner.
            NotReadyError: There is no replica, and none can start.
            EngineClosedError: The host is closed.
        """
        if refiner is not None:
            raise InvalidRequestError(
                "Invalid refiner: the models of this server are on other machines, and a refiner needs both models in "
                "one process; leave it out",
                "refiner",
            )
        seed = check_request(request).seed
        ticket = Ticket.of(request.model_copy(update={"seed": seed}), 0, deadline)
        with self._changed:
            if self._closed:
                raise EngineClosedError("The engine is closed: it accepts no more requests")
            if self._replicas.failure:
                raise NotReadyError(self._replicas.failure)
            waiting = len(self._waiting)
            if waiting >= self._settings.queue_max:
                raise QueueFullError(f"{waiting} requests wait already: try again in a moment", _RETRY_AFTER)
            self._open.add(ticket)
            self._waiting.add(ticket)
        ticket.wait_at(waiting + 1)
        drawing = self._replicas.start(self._draw(mode, ticket))
        ticket.job.fut.add_done_callback(lambda future: self._note_end(ticket, future, drawing))
        return ticket

    def load(self, mode: Mode) -> None:
        """Wait until a replica has loaded a mode's model and its LoRAs; not for a server's event loop thread.

        Raises:
            ImagegenError: The model or a LoRA cannot be loaded.
        """
        self._replicas.start(self._bring(mode)).result()

    def card(self, mode: Mode) -> ModelCard | None:
        """Return a mode's model card from a replica, or None if no replica has loaded the model."""
        return next((host.cards[mode.key] for host in self._replicas.hosts if mode.key in host.cards), None)

    def unload(self, mode: Mode) -> bool:
        """Refuse to unload a model.

        Raises:
            InvalidRequestError: Always.
        """
        raise InvalidRequestError(
            f"Mode {mode.name} cannot be unloaded by hand here: Ray Serve decides which replicas hold which models, "
            "and lets go of the one used longest ago where another is wanted",
            "mode",
        )

    def keep_only(self, keys: Collection[ModelKey]) -> None:
        """Unload all other models on all replicas, each after its open requests."""
        self._replicas.start(self._replicas.broadcast("keep_only", keys))

    def hosts(self) -> tuple[HostReport, ...]:
        """Return the reports of the replicas from the last poll."""
        return self._replicas.hosts

    def report(self) -> EngineReport | None:
        """Merge the replicas' reports with this host's own counters, or return None without reports.

        The host counts requests itself, because its counters survive a lost replica.
        """
        reports = [host.engine for host in self._replicas.hosts if host.engine is not None]
        if not reports:
            return None
        with self._changed:
            waiting = len(self._waiting)
            return replace(
                merged(reports),
                waiting=waiting,
                running=len(self._open) - waiting,
                finished=self._ended["finished"],
                failed=self._ended["failed"],
                cancelled=self._ended["cancelled"],
            )

    def enlarging(self) -> UpscalerHost:
        """Create upscalers that compute on the replicas.

        Raises:
            ModelNotFoundError: The configured upscaler does not exist.
        """
        return RemoteUpscalers(self._settings, self._registry, self.call)

    def call(self, method: str, *arguments: Any, until: Future[Any] | None = None) -> Any:
        """Call a method of a replica, and return its result or raise the returned error.

        Not for a server's event loop thread.

        Args:
            method: Name of the method.
            arguments: Its arguments.
            until: A future; when it is done, the call is cancelled.

        Raises:
            ImagegenError: The replica's error, or no replica could answer.
            CancelledError: `until` is done.
        """
        answer = self._replicas.start(self._replicas.call(method, *arguments))
        if until is not None:
            until.add_done_callback(lambda _: answer.cancel())
        result = answer.result()
        if isinstance(result, Exception):
            raise result
        return result

    def close(self, limit: float) -> None:
        """Cancel all open requests."""
        with self._changed:
            self._closed = True
            left = [*self._open]
        for ticket in left:
            ticket.fail(EngineClosedError("The engine is closed: it accepts no more requests"))
        self._replicas.close(limit)

    def _note_end(self, ticket: Ticket, future: Future[Any], drawing: Future[None]) -> None:
        ended = "cancelled" if future.cancelled() else "finished" if future.exception() is None else "failed"
        with self._changed:
            self._open.discard(ticket)
            self._waiting.discard(ticket)
            self._ended[ended] += 1
        if ended != "finished":  # a finished request's stream ends by itself
            drawing.cancel()

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
        """Try replicas until one draws the picture; give up after `ATTEMPTS` losses during drawing."""
        lost_in_hand = 0
        for attempt in count(1):
            try:
                await self._follow(mode, ticket)
            except LostError as error:
                logger.warning("A replica was lost; another draws its pictures again: %s", error)
                lost_in_hand += error.in_hand
                if lost_in_hand == ATTEMPTS:
                    break
                await asyncio.sleep(pause(attempt))
            except PlanMismatchError:
                await asyncio.sleep(pause(attempt))
            else:
                return
        raise ImagegenError(
            f"{ATTEMPTS} replicas were lost, one after another, while they drew this picture: ask for another, and "
            "look into the replicas' logs"
        )

    async def _follow(self, mode: Mode, ticket: Ticket) -> None:
        """Draw on one replica, and forward its events to the ticket.

        Raises:
            LostError: The replica was lost before the picture was done.
            PlanMismatchError: The replica would draw other bytes than the other replicas.
        """
        left = None if ticket.deadline is None else ticket.since + ticket.deadline - time.monotonic()
        heard, plans = False, self._replicas.plans
        arguments = (mode, ticket.job.req, left, plans.of(mode.key))
        try:
            async with aclosing(self._replicas.stream("draw", mode.key, *arguments)) as events:
                async for event in events:
                    if isinstance(event, Handshake):
                        plans.check(mode.key, event)
                        continue
                    _pass_on(event, ticket)
                    heard = True
                    if isinstance(event, Started):
                        with self._changed:
                            self._waiting.discard(ticket)
        except (RayActorError, EngineClosedError, QueueFullError) as error:
            raise LostError(first_line(error), in_hand=heard) from error
        if not ticket.done:
            raise LostError("it stopped before the picture was done", in_hand=heard)

    async def _bring(self, mode: Mode) -> None:
        error = await self._replicas.call("load", mode, key=mode.key)
        if error is not None:
            raise error
        await self._replicas.ask()


def _pass_on(event: Event, ticket: Ticket) -> None:
    """Forward a replica's event to a ticket.

    Raises:
        EngineClosedError, QueueFullError: The replica stops, its engine broke, or its queue is full.
        TimeoutError: The deadline has passed; the caller creates the error message.
    """
    match event:
        case Queued(place):
            ticket.wait_at(place)
        case Done(picture):
            ticket.draw(picture)
        case Failed(EngineClosedError() | QueueFullError() as error):
            raise error
        case Failed(DeadlineError()):
            raise TimeoutError
        case Failed(error):
            ticket.fail(error)
        case Started() | StepDone():
            ticket.events.append(event)
