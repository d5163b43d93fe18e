"""How fast an engine draws for so many askers at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from statistics import median, quantiles
from typing import Any

from imagegen_core.engine.local import LocalEngine
from imagegen_core.engine.ticket import Ticket


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured.

    Attributes:
        clients: Askers at a time, each asking again as soon as it is answered.
        pictures: Pictures drawn in the time measured.
        per_second: Pictures a second.
        median: Seconds from asking to the picture, of half of them at most.
        p95: Seconds of nineteen in twenty at most.
    """

    clients: int
    pictures: int
    per_second: float
    median: float
    p95: float


def measure(engine: LocalEngine, requests: Iterator[Any], clients: int, seconds: float) -> Measurement:
    """Keep `clients` requests in flight: one round to warm up, then for some seconds, at least until all are answered.

    Args:
        engine: The engine, which nobody else asks meanwhile.
        requests: What is asked, one after another, without end.
        clients: How many at a time.
        seconds: How long.
    """
    answered: SimpleQueue[Ticket] = SimpleQueue()

    def ask() -> None:
        ticket = engine.submit(next(requests))
        ticket.job.fut.add_done_callback(lambda _: answered.put(ticket))

    for _ in range(clients):
        ask()
    for _ in range(clients):
        answered.get().result()
        ask()
    waited: list[float] = []
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < seconds or len(waited) < clients:
        ticket = answered.get()
        ticket.result()
        waited.append(time.monotonic() - ticket.since)
        ask()
    for _ in range(clients):
        answered.get().result()
    p95 = quantiles(waited, n=20)[-1] if len(waited) > 1 else waited[0]
    return Measurement(clients, len(waited), len(waited) / elapsed, median(waited), p95)
