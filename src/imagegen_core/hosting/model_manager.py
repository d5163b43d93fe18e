"""Several models in the devices' memory: each with an engine of its own, as many at a time as a budget takes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Hashable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

from imagegen_core.engine.deadlines import Deadlines
from imagegen_core.engine.interface import Engine
from imagegen_core.engine.report import EngineReport, ended, merged
from imagegen_core.engine.ticket import Ticket
from imagegen_core.errors import EngineClosedError, QueueFullError
from imagegen_core.hosting.cache_entry import CacheEntry, CacheEntryReport
from imagegen_core.hosting.model_cache import ModelCache
from imagegen_core.request import check_request

logger = logging.getLogger(__name__)

_RETRY_AFTER = 5.0  # seconds; a model loads about that long

LoadEngine = Callable[[Any, Any | None], Any]
"""Makes the engine for a key; its second argument is an engine that draws at the moment, to compute beside, or None."""


class ModelManager:
    """Keeps models loaded, and has each request drawn by its own.

    A model is loaded when it is first wanted, on a thread of its own, while the others draw; what wants it waits. Where
    the budget does not take one more, the one that was used longest ago makes room, once it has no work in hand. What
    a model takes is measured while it is there (`ReportsMemory`), and is the estimate before. One whose engine broke
    is loaded anew.
    """

    def __init__(
        self, load: LoadEngine, *, estimate: Callable[[Any], int], budget: int | None = None, queue_limit: int = 256
    ) -> None:
        """Nothing is loaded yet.

        Args:
            load: Makes the engine for a key.
            estimate: Guesses what a key's model takes on a device, in bytes, before it was ever loaded.
            budget: Bytes that all of them may take together on a device; None is 0.8 of what was free there before the
                first, and of several devices the least of that.
            queue_limit: Requests that may wait for models to load.
        """
        self._load, self._queue_limit = load, queue_limit
        self._shelf = ModelCache(budget, estimate)
        self._deadlines = Deadlines()  # of those that wait for models
        self._past: EngineReport | None = None
        self._loads = self._unloads = 0
        self._changed = threading.Condition()
        self._closed = False
        self._loader: threading.Thread | None = None
        self._keeper: threading.Thread | None = None

    @property
    def budget(self) -> int | None:
        """Bytes that all models may take on a device; None before the first is loaded, where nothing is configured."""
        return self._shelf.budget.limit

    @property
    def loads(self) -> int:
        """How many times a model was loaded."""
        return self._loads

    @property
    def unloads(self) -> int:
        """How many times one was let go of."""
        return self._unloads

    def adopt(self, key: Hashable, engine: Engine) -> None:
        """Take in an engine that is there already; it stays, and its maker closes it."""
        with self._changed:
            devices = self._shelf.budget.place(engine)
            resident = CacheEntry(key, state="ready", engine=engine, devices=devices, pinned=True)
            resident.loaded.set_result(engine)
            self._shelf.here[key] = resident
            self._shelf.weigh()

    def submit(self, key: Hashable, request: Any, deadline: float | None = None, priority: int = 0) -> Ticket:
        """Put a request in line for a model, which is loaded first where it is not there; see `LocalEngine.submit`.

        Raises:
            QueueFullError: Too many wait already.
            InvalidRequestError: The request asks for what no worker could draw.
            EngineClosedError: This was closed.
        """
        check_request(request)  # before a model is loaded
        with self._changed:
            self._shelf.replace_broken()
            line, resident = len(self._shelf.line), self._shelf.here.get(key)
            waits = resident is None or resident.state != "ready"
            if waits and line >= self._queue_limit:
                raise QueueFullError(
                    f"{line} requests wait for models to load: try again in a moment", retry_after=_RETRY_AFTER
                )
            resident = self._wanted(key)
            resident.open += 1  # from now on it stays
        if waits:
            ticket = Ticket.of(request, priority, deadline)
        else:
            ticket = self._submitted(resident, request, deadline, priority)
        ticket.job.fut.add_done_callback(partial(self._let_go, resident))
        if waits:
            self._deadlines.watch(ticket)
            self._wait(resident, ticket)
        return ticket

    def want(self, key: Hashable) -> Future[Engine]:
        """Have a model loaded; the future holds its engine, or why there is none.

        Raises:
            EngineClosedError: This was closed.
        """
        with self._changed:
            self._shelf.replace_broken()
            return self._wanted(key).loaded

    def engine(self, key: Hashable) -> Engine | None:
        """The engine of a model that is loaded, or None."""
        with self._changed:
            resident = self._shelf.here.get(key)
            return None if resident is None or resident.state != "ready" else resident.engine

    def any_engine(self) -> Engine | None:
        """One of the engines that are there, the one used last, or None."""
        with self._changed:
            last = self._shelf.last_used
            return None if last is None else last.engine

    def unload(self, key: Hashable) -> bool:
        """Let go of a model, unless it has work in hand, is being loaded, or is not ours: False then."""
        with self._changed:
            resident = self._shelf.here.get(key)
            if resident is None or not resident.is_idle:
                return False
            self._shelf.leave(resident)
            self._changed.notify_all()
            self._changed.wait_for(lambda: resident not in self._shelf.leaving)
            return True

    def keep_only(self, keys: Collection[Hashable]) -> None:
        """Let go of all other models, each once it has no work in hand."""
        with self._changed:
            self._shelf.keep_only(keys)
            self._changed.notify_all()

    def tell(self) -> list[CacheEntryReport]:
        """The models that are there or come, in the order they were wanted."""
        with self._changed:
            return [one.tell() for one in self._shelf.all]

    def report(self) -> EngineReport:
        """What the engines do, taken together, with what those did that are gone."""
        with self._changed:
            engines = [one.engine for one in self._shelf.all if one.engine is not None]
            waiting = len(self._shelf.line)
            past = [self._past] if self._past else []
        reports = [engine.report() for engine in engines] + past
        if not reports:
            reports = [EngineReport("exact", "no model is loaded", (), 0, 0, 0, 0, 0, {}, 0.0, 0.0, 0)]
        whole = merged(reports) if len(reports) > 1 else reports[0]
        return replace(whole, waiting=whole.waiting + waiting) if waiting else whole

    def close(self, *, drain: bool = True, limit: float | None = None) -> None:
        """Stop: what waits for a model is given up, what is in hand is finished, or given up without `drain`.

        Args:
            drain: Whether to finish it.
            limit: Seconds to wait at most for a model that is being loaded.
        """
        with self._changed:
            self._closed = True
            residents = self._shelf.all
            self._shelf.here.clear()
            self._changed.notify_all()
        if self._keeper is not None:
            self._keeper.join()
        for resident in residents:
            self._give_up(resident, EngineClosedError("The engine is closed: it takes no more requests"))
        if self._loader is not None:
            self._loader.join(limit)
        for resident in residents:
            if resident.engine is not None and not resident.pinned:
                resident.engine.close(drain=drain)

    def _wanted(self, key: Hashable) -> CacheEntry:
        """The model's place, made where there is none; under the lock."""
        if self._closed:
            raise EngineClosedError("The engine is closed: it takes no more requests")
        resident = self._shelf.want(key)
        if resident.state == "wanted":
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._keep, name="imagegen-keeper", daemon=True)
                self._keeper.start()
            self._changed.notify_all()
        return resident

    def _submitted(self, resident: CacheEntry, request: Any, deadline: float | None, priority: int) -> Ticket:
        try:
            ticket = resident.ready_engine.submit(request, deadline=deadline, priority=priority)
        except BaseException:
            self._let_go(resident)
            raise
        return ticket

    def _wait(self, resident: CacheEntry, ticket: Ticket) -> None:
        """Put a ticket in the line of a model that comes; where it came meanwhile, or never will, that counts."""
        with self._changed:
            if resident.state in ("wanted", "loading"):
                resident.waiting.append(ticket)
                place = len(resident.waiting)
                self._changed.notify_all()
            else:
                place = 0
        if place:
            ticket.wait_at(place)
        elif (error := resident.loaded.exception()) is None:
            _admit(resident.ready_engine, ticket)
        else:
            ticket.fail(error if isinstance(error, Exception) else RuntimeError(str(error)))

    def _let_go(self, resident: CacheEntry, _: Future[Any] | None = None) -> None:
        with self._changed:
            resident.open -= 1
            resident.used = time.monotonic()
            self._changed.notify_all()

    def _keep(self) -> None:
        """Closes what leaves, and begins to load what is wanted."""
        while True:
            with self._changed:
                if not self._closed and not self._has_work():
                    self._changed.wait()
                if self._closed:
                    return
                self._shelf.replace_broken()
                self._shelf.weigh()
                gone = [one for one in self._shelf.leaving if not one.open]
                if not gone:
                    self._begin_next()
            for resident in gone:
                self._close_one(resident)

    def _has_work(self) -> bool:
        return any(not one.open for one in self._shelf.leaving) or (self._loader is None and self._shelf.has_room())

    def _begin_next(self) -> None:
        resident = self._shelf.next
        if resident is None or self._loader is not None or not self._shelf.has_room():
            return
        resident.state = "loading"
        self._loader = threading.Thread(target=self._bring, args=(resident,), name="imagegen-loader", daemon=True)
        self._loader.start()

    def _bring(self, resident: CacheEntry) -> None:
        began = time.monotonic()
        try:
            engine = self._load(resident.key, self.any_engine())
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told to those who want the model
            self._fail(resident, error)
            return
        devices = self._shelf.budget.place(engine)
        with self._changed:
            self._loader = None
            closed = self._closed
            if not closed:
                self._loads += 1
                resident.engine, resident.devices, resident.state = engine, devices, "ready"
                resident.seconds = time.monotonic() - began
                waiting, resident.waiting = resident.waiting, []
                resident.used = time.monotonic()
                self._shelf.weigh()
                self._note_excess(resident)
                self._changed.notify_all()
        if closed:
            engine.close(drain=False)
            return
        resident.loaded.set_result(engine)
        for ticket in waiting:
            if not ticket.done:
                _admit(engine, ticket)

    def _note_excess(self, resident: CacheEntry) -> None:
        if self.budget is not None and resident.size > self.budget:
            excess = (resident.size - self.budget) / 1e6
            logger.warning("%s takes %.0f MB more than the memory budget, and is served alone", resident.key, excess)

    def _fail(self, resident: CacheEntry, error: Exception) -> None:
        with self._changed:
            self._loader = None
            if self._shelf.here.get(resident.key) is resident:
                del self._shelf.here[resident.key]
            resident.state = "failed"
            self._changed.notify_all()
        self._give_up(resident, error)

    def _give_up(self, resident: CacheEntry, error: Exception) -> None:
        """Tell all that want a model that it does not come."""
        with self._changed:
            waiting, resident.waiting = resident.waiting, []
            told = resident.loaded.done()
            if not told:
                resident.loaded.set_exception(error)
        for ticket in waiting:
            ticket.fail(error)

    def _close_one(self, resident: CacheEntry) -> None:
        engine, resident.engine = resident.ready_engine, None
        engine.close()
        report = ended(engine.report())
        del engine
        resident.loaded = Future()  # the one before holds the engine, and with it the model's memory
        with self._changed:
            self._past = report if self._past is None else merged([report, self._past])
            self._shelf.leaving.remove(resident)
            self._unloads += 1
            self._changed.notify_all()
        logger.info("Let go of %s", resident.key)


def _admit(engine: Engine, ticket: Ticket) -> None:
    try:
        engine.admit(ticket)
    except EngineClosedError as error:
        ticket.fail(error)
