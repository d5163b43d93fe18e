"""Measure an engine's throughput and latency for a number of clients."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from statistics import median, quantiles

from imagegen_core.engine.local import LocalEngine
from imagegen_core.engine.ticket import Ticket
from imagegen_core.request import GenerateRequest


@dataclass(frozen=True, slots=True)
class Measurement:
    """The result of a benchmark.

    Attributes:
        clients: Concurrent clients; each sends its next request after a response.
        pictures: Pictures drawn in the measured time.
        per_second: Pictures per second.
        median: Median latency in seconds, from request to picture.
        p95: 95th percentile of the latency in seconds.
    """

    clients: int
    pictures: int
    per_second: float
    median: float
    p95: float


def measure(engine: LocalEngine, requests: Iterator[GenerateRequest], clients: int, seconds: float) -> Measurement:
    """Keep `clients` requests in flight: one warm-up round, then `seconds`, but at least one response per client.

    Args:
        engine: The engine; no other caller may use it meanwhile.
        requests: An endless iterator of requests.
        clients: Number of requests in flight.
        seconds: Minimum duration in seconds.
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
