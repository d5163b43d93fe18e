"""Manage several models in device memory: one engine for each, within a memory budget."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

from imagegen_core.engine.deadlines import Deadlines
from imagegen_core.engine.interface import Engine
from imagegen_core.engine.report import EngineReport, ended, merged
from imagegen_core.engine.ticket import TakeOver, Ticket
from imagegen_core.errors import EngineClosedError, QueueFullError
from imagegen_core.hosting.cache_entry import CacheEntry, CacheEntryReport, Claim
from imagegen_core.hosting.model_cache import ModelCache
from imagegen_core.request import check_request

logger = logging.getLogger(__name__)

_RETRY_AFTER = 5.0  # seconds; a typical load time

LoadEngine = Callable[[Any, Sequence[Any]], Any]
"""Creates the engine for a key; the second argument is the running engines, to share compute threads with."""


class ModelManager:
    """Load models on demand, and submit each request to its model's engine.

    A model loads on first use in a separate thread, while other engines draw; its requests wait. If the budget is
    full, the least recently used model is unloaded after its open requests. A loaded model's size is measured
    (`ReportsMemory`); before that, the estimate counts. A model with a broken engine is loaded again.
    """

    def __init__(
        self, load: LoadEngine, *, estimate: Callable[[Any], int], budget: int | None = None, queue_limit: int = 256
    ) -> None:
        """Create a manager without models.

        Args:
            load: Creates the engine for a key.
            estimate: Estimates a model's bytes on a device before its first load.
            budget: Bytes for all models together on a device. None takes 0.8 of the memory free there before the
                first model; with several devices, the smallest value counts.
            queue_limit: Maximum number of requests that wait for models to load.
        """
        self._load, self._queue_limit = load, queue_limit
        self._cache = ModelCache(budget, estimate)
        self._deadlines = Deadlines()  # of the tickets that wait for models
        self._past: EngineReport | None = None
        self._loads = self._unloads = 0
        self._changed = threading.Condition()
        self._closed = False
        self._loader: threading.Thread | None = None
        self._keeper: threading.Thread | None = None

    @property
    def budget(self) -> int | None:
        """Bytes for all models together on a device; None before the first load, unless configured."""
        return self._cache.budget.limit

    @property
    def loads(self) -> int:
        """Number of loads so far."""
        return self._loads

    @property
    def unloads(self) -> int:
        """Number of unloads so far."""
        return self._unloads

    def adopt(self, key: Hashable, engine: Engine) -> None:
        """Register an existing engine; it stays loaded, and the caller closes it."""
        with self._changed:
            devices = self._cache.budget.place(engine)
            entry = CacheEntry(key, state="ready", engine=engine, devices=devices, pinned=True)
            entry.loaded.set_result(engine)
            self._cache.here[key] = entry
            self._cache.weigh()

    def submit(
        self,
        key: Hashable,
        request: Any,
        deadline: float | None = None,
        priority: int = 0,
        refiner: Hashable | None = None,
    ) -> Ticket:
        """Queue a request for a model, and load the model if necessary; see `LocalEngine.submit`.

        Args:
            key: The model's key.
            request: The request.
            deadline: See `LocalEngine.submit`.
            priority: See `LocalEngine.submit`.
            refiner: The key of the model for the last steps of a request with a refiner. Both models need not be in
                memory at the same time.

        Raises:
            QueueFullError: The queue is full.
            InvalidRequestError: No worker could draw the request.
            EngineClosedError: The manager is closed.
        """
        check_request(request)  # refuse an invalid request before it causes a load
        with self._changed:
            self._cache.replace_broken()
            line, entry = len(self._cache.line), self._cache.here.get(key)
            waits = entry is None or entry.state != "ready"
            if waits and line >= self._queue_limit:
                raise QueueFullError(
                    f"{line} requests wait for models to load: try again in a moment", retry_after=_RETRY_AFTER
                )
            entry = self._wanted(key)
            claim = Claim(entry)
        take_over = None if refiner is None else partial(self._take_over, claim, refiner)
        if waits:
            ticket = Ticket.of(request, priority, deadline, take_over)
        else:
            ticket = self._submitted(claim, request, deadline, priority, take_over)
        ticket.job.fut.add_done_callback(partial(self._let_go, claim))
        if waits:
            self._deadlines.watch(ticket)
            self._wait(entry, ticket)
        return ticket

    def want(self, key: Hashable) -> Future[Engine]:
        """Request a model; the future holds its engine or the load error.

        Raises:
            EngineClosedError: The manager is closed.
        """
        with self._changed:
            self._cache.replace_broken()
            return self._wanted(key).loaded

    def engine(self, key: Hashable) -> Engine | None:
        """Return the engine of a loaded model, or None."""
        with self._changed:
            entry = self._cache.here.get(key)
            return None if entry is None or entry.state != "ready" else entry.engine

    def engines(self) -> list[Engine]:
        """Return the engines of the loaded models, the most recently used first."""
        with self._changed:
            return [entry.ready_engine for entry in sorted(self._cache.ready, key=lambda entry: -entry.used)]

    def unload(self, key: Hashable) -> bool:
        """Unload a model; return False if it is busy, loading, absent or adopted."""
        with self._changed:
            entry = self._cache.here.get(key)
            if entry is None or not entry.is_idle:
                return False
            self._cache.leave(entry)
            self._changed.notify_all()
            self._changed.wait_for(lambda: entry not in self._cache.leaving)
            return True

    def keep_only(self, keys: Collection[Hashable]) -> None:
        """Unload all other models, each after its open requests."""
        with self._changed:
            self._cache.keep_only(keys)
            self._changed.notify_all()

    def tell(self) -> list[CacheEntryReport]:
        """Return the reports of all models, in the order of the first request; leaving models come last."""
        with self._changed:
            return [entry.tell() for entry in self._cache.all]

    def report(self) -> EngineReport:
        """Return the merged report of all engines, including the counters of closed engines."""
        with self._changed:
            engines = [entry.engine for entry in self._cache.all if entry.engine is not None]
            waiting = len(self._cache.line)
            past = [self._past] if self._past else []
        reports = [engine.report() for engine in engines] + past
        if not reports:
            reports = [EngineReport("exact", "no model is loaded", (), 0, 0, 0, 0, 0, {}, 0.0, 0.0, 0)]
        whole = merged(reports) if len(reports) > 1 else reports[0]
        return replace(whole, waiting=whole.waiting + waiting) if waiting else whole

    def close(self, *, drain: bool = True, limit: float | None = None) -> None:
        """Fail the requests that wait for a model, finish the requests in progress, and close the engines.

        Args:
            drain: Whether to finish requests in progress; False cancels them.
            limit: Maximum seconds to wait for a model that is loading; None sets no limit.
        """
        with self._changed:
            self._closed = True
            entries = self._cache.all
            self._cache.here.clear()
            self._changed.notify_all()
        if self._keeper is not None:
            self._keeper.join()
        for entry in entries:
            self._give_up(entry, EngineClosedError("The engine is closed: it accepts no more requests"))
        if self._loader is not None:
            self._loader.join(limit)
        for entry in entries:
            if entry.engine is not None and not entry.pinned:
                entry.engine.close(drain=drain)

    def _wanted(self, key: Hashable) -> CacheEntry:
        """Return the model's entry, and start its load if necessary; the caller holds the lock."""
        if self._closed:
            raise EngineClosedError("The engine is closed: it accepts no more requests")
        entry = self._cache.want(key)
        if entry.state == "wanted":
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._keep, name="imagegen-keeper", daemon=True)
                self._keeper.start()
            self._changed.notify_all()
        return entry

    def _submitted(
        self, claim: Claim, request: Any, deadline: float | None, priority: int, take_over: TakeOver | None
    ) -> Ticket:
        more = {} if take_over is None else {"take_over": take_over}
        try:
            ticket = claim.entry.ready_engine.submit(request, deadline=deadline, priority=priority, **more)
        except BaseException:
            self._let_go(claim)
            raise
        return ticket

    def _take_over(self, claim: Claim, refiner: Hashable, ticket: Ticket, half_drawn: Any) -> None:
        """Queue a half-drawn picture for its refiner, and let go of the first model: it may have to make room."""
        if ticket.done:
            return
        ticket.go_on(half_drawn)
        with self._changed:
            self._cache.replace_broken()
            claim.move(self._wanted(refiner))
            self._changed.notify_all()
        self._wait(claim.entry, ticket)

    def _wait(self, entry: CacheEntry, ticket: Ticket) -> None:
        """Queue a ticket for a loading model; if the load has ended meanwhile, submit or fail the ticket."""
        with self._changed:
            if entry.state in ("wanted", "loading"):
                entry.waiting.append(ticket)
                place = len(entry.waiting)
                self._changed.notify_all()
            else:
                place = 0
        if place:
            ticket.wait_at(place)
        elif (error := entry.loaded.exception()) is None:
            _admit(entry.ready_engine, ticket)
        else:
            ticket.fail(error if isinstance(error, Exception) else RuntimeError(str(error)))

    def _let_go(self, claim: Claim, _: Future[Any] | None = None) -> None:
        with self._changed:
            claim.end()
            self._changed.notify_all()

    def _keep(self) -> None:
        """Close the models that leave, and start to load the next model."""
        while True:
            with self._changed:
                if not self._closed and not self._has_work():
                    self._changed.wait()
                if self._closed:
                    return
                self._cache.replace_broken()
                self._cache.weigh()
                gone = [entry for entry in self._cache.leaving if not entry.open]
                if not gone:
                    self._begin_next()
            for entry in gone:
                self._close_one(entry)

    def _has_work(self) -> bool:
        may_load = self._loader is None and self._cache.has_room()  # this may mark models for unloading
        return may_load or any(not entry.open for entry in self._cache.leaving)

    def _begin_next(self) -> None:
        entry = self._cache.next
        if entry is None or self._loader is not None or not self._cache.has_room():
            return
        entry.state = "loading"
        self._loader = threading.Thread(target=self._bring, args=(entry,), name="imagegen-loader", daemon=True)
        self._loader.start()

    def _bring(self, entry: CacheEntry) -> None:
        began = time.monotonic()
        try:
            engine = self._load(entry.key, self.engines())
        except Exception as error:  # noqa: BLE001 - any error goes to the requests that wait for the model
            self._fail(entry, error)
            return
        devices = self._cache.budget.place(engine)
        with self._changed:
            self._loader = None
            closed = self._closed
            if not closed:
                self._loads += 1
                entry.engine, entry.devices, entry.state = engine, devices, "ready"
                entry.seconds = time.monotonic() - began
                waiting, entry.waiting = entry.waiting, []
                entry.used = time.monotonic()
                self._cache.weigh()
                self._note_excess(entry)
                self._changed.notify_all()
        if closed:
            engine.close(drain=False)
            return
        entry.loaded.set_result(engine)
        for ticket in waiting:
            if not ticket.done:
                _admit(engine, ticket)

    def _note_excess(self, entry: CacheEntry) -> None:
        if self.budget is not None and entry.size > self.budget:
            excess = (entry.size - self.budget) / 1e6
            logger.warning("%s takes %.0f MB more than the memory budget, and is served alone", entry.key, excess)

    def _fail(self, entry: CacheEntry, error: Exception) -> None:
        with self._changed:
            self._loader = None
            if self._cache.here.get(entry.key) is entry:
                del self._cache.here[entry.key]
            entry.state = "failed"
            self._changed.notify_all()
        self._give_up(entry, error)

    def _give_up(self, entry: CacheEntry, error: Exception) -> None:
        """Fail all tickets and the future that wait for a model."""
        with self._changed:
            waiting, entry.waiting = entry.waiting, []
            told = entry.loaded.done()
            if not told:
                entry.loaded.set_exception(error)
        for ticket in waiting:
            ticket.fail(error)

    def _close_one(self, entry: CacheEntry) -> None:
        engine, entry.engine = entry.ready_engine, None
        engine.close()
        report = ended(engine.report())
        del engine
        entry.loaded = Future()  # the old future holds the engine and thereby the model's memory
        with self._changed:
            self._past = report if self._past is None else merged([report, self._past])
            self._cache.leaving.remove(entry)
            self._unloads += 1
            self._changed.notify_all()
        logger.info("Let go of %s", entry.key)


def _admit(engine: Engine, ticket: Ticket) -> None:
    try:
        engine.admit(ticket)
    except EngineClosedError as error:
        ticket.fail(error)
