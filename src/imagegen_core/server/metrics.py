"""Prometheus metrics of the server."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import psutil
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from imagegen_core.job import Started
from imagegen_core.server.errors import problem

if TYPE_CHECKING:
    from imagegen_core.engine import EngineReport, Ticket
    from imagegen_core.hosting.mode_manager import ModeManager
    from imagegen_core.hosting.model_host import HostReport
    from imagegen_core.server.upscaling_queue import UpscalingQueue

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The counters of one server, in its own registry."""

    def __init__(self, model: ModeManager, upscalings: UpscalingQueue) -> None:
        """Start all counters at zero."""
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(model, upscalings))
        self._failures = Counter(
            "imagegen_failures", "Requests that failed, by kind of error.", ["kind"], registry=self._registry
        )
        self._answers = Counter(
            "imagegen_http_responses", "Answers by route and status.", ["route", "status"], registry=self._registry
        )
        self._by_mode = Counter("imagegen_mode_images", "Pictures drawn, by mode.", ["mode"], registry=self._registry)
        self._failed_by_mode = Counter(
            "imagegen_mode_failures", "Requests that failed, by mode.", ["mode"], registry=self._registry
        )
        self._wait = Histogram(
            "imagegen_wait_seconds", "From asking to beginning.", registry=self._registry, buckets=_SECONDS
        )
        self._whole = Histogram(
            "imagegen_picture_seconds", "From asking to the picture.", registry=self._registry, buckets=_SECONDS
        )

    def ended(self, ticket: Ticket, future: Future[Any], mode: str) -> None:
        """Count the end of a ticket, by mode."""
        if future.cancelled():
            return
        error = future.exception()
        if isinstance(error, Exception):
            self.failed(problem(error).kind)
            self._failed_by_mode.labels(mode).inc()
        elif error is None:
            self._by_mode.labels(mode).inc()
            self._whole.observe(time.monotonic() - ticket.since)
            if (began := ticket.events.when(Started)) is not None:
                self._wait.observe(began - ticket.since)

    def failed(self, kind: str) -> None:
        """Count a failure."""
        self._failures.labels(kind).inc()

    def answered(self, route: str, status: int) -> None:
        """Count a response."""
        self._answers.labels(route, str(status)).inc()

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self._registry)


class _EngineCollector(Collector):
    """Read the engine's report at each scrape."""

    def __init__(self, model: ModeManager, upscalings: UpscalingQueue) -> None:
        self._model, self._upscalings = model, upscalings

    def collect(self) -> Iterator[Metric]:
        process = psutil.Process()
        yield GaugeMetricFamily("imagegen_ready", "1 when pictures are drawn.", float(self._model.state == "ready"))
        yield GaugeMetricFamily("imagegen_resident_bytes", "Memory of this process.", process.memory_info().rss)
        yield GaugeMetricFamily("imagegen_open_files", "Open files and sockets.", process.num_fds())
        upscalings = len(self._upscalings.open())
        yield GaugeMetricFamily("imagegen_upscalings", "Pictures in enlargement or waiting for it.", upscalings)
        yield from _of_models(self._model.models.hosts())
        if report := self._model.models.report():
            yield from _of_engine(report)


def _of_models(hosts: Sequence[HostReport]) -> Iterator[Metric]:
    yield GaugeMetricFamily("imagegen_hosts", "Processes that draw.", len(hosts))
    sizes = GaugeMetricFamily("imagegen_model_bytes", "Memory of a model.", labels=["host", "model", "state"])
    for host in hosts:
        for entry in host.entries:
            sizes.add_metric([host.name, str(entry.key.model or ""), entry.state], entry.size)
    yield sizes
    yield CounterMetricFamily("imagegen_model_loads", "Models loaded.", sum(host.loads for host in hosts))
    yield CounterMetricFamily("imagegen_model_unloads", "Models let go of.", sum(host.unloads for host in hosts))


def _of_engine(report: EngineReport) -> Iterator[Metric]:
    yield GaugeMetricFamily("imagegen_queue_depth", "Requests waiting in the queue.", report.waiting)
    yield GaugeMetricFamily("imagegen_running", "Requests that have.", report.running)
    yield GaugeMetricFamily("imagegen_stuck_seconds", "How long a step hangs.", report.stuck)
    yield GaugeMetricFamily("imagegen_broken_engines", "Broken engines.", report.broken)
    yield CounterMetricFamily("imagegen_images", "Pictures drawn.", report.finished)
    yield CounterMetricFamily("imagegen_cancellations", "Requests cancelled.", report.cancelled)
    yield CounterMetricFamily("imagegen_step_seconds", "Time in denoising steps.", report.step_seconds)
    steps = CounterMetricFamily("imagegen_steps", "Denoising steps by the rows they had.", labels=["rows"])
    for rows, count in sorted(report.steps.items()):
        steps.add_metric([str(rows)], count)
    yield steps
    pace = GaugeMetricFamily("imagegen_step_seconds_median", "A step's time.", labels=["group", "rows"])
    for group in report.groups:
        for rows, seconds in group.seconds.items():
            pace.add_metric([group.kind, str(rows)], seconds)
    yield pace
