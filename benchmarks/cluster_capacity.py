"""Measure the front's constants for `docs_build/capacity.py`, and compare its predictions with measurements."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from statistics import median

import aiohttp
import psutil
from cluster_overhead import differences, latencies
from cluster_servers import DEMO, Server, measure_load, on_ray, replicas_of, serving, until
from figures import show, spread
from simulated import installed

sys.path.append(str(Path(__file__).parent.parent / "docs_build"))
from capacity import cell_rate
from capacity_checks import CHECKS, Check

_PICTURE_SECONDS = 0.004  # so short that the front is the limit
_CORES = 0.2  # for the front, to keep it busy: a busy front takes less time for each picture than an idle front
_CASES = (  # steps, bytes of a picture
    (4, 0),
    (20, 0),
    (4, 100_000),
    (4, 1_500_000),
)
_ROUNDS = 3
_PERIOD = 0.05  # seconds
_WAITING = 1000


def constants(folder: Path, seconds: float) -> None:
    """Measure the front's share of a picture, and its memory."""
    environ = installed(folder)
    spreads = _front_seconds(folder, environ, seconds)
    rows = [
        [f"front, CPU ms of a picture, {steps} steps, {size:,} B", spread([1000 * value for value in values], 1)]
        for (steps, size), values in spreads.items()
    ]
    medians = {case: median(values) for case, values in spreads.items()}
    event = (medians[20, 0] - medians[4, 0]) / 16
    rows += [
        ["request_seconds", f"{medians[4, 0] - 4 * event:.4f}"],
        ["event_seconds", f"{event:.5f}"],
        ["megabyte_seconds", f"{(medians[4, 1_500_000] - medians[4, 0]) / 1.5:.4f}"],
    ]
    quick = environ | _simulated(row=0.002)
    with serving(folder, **quick) as alone, serving(folder, **quick, **on_ray(1)) as clustered:
        theirs, ours = latencies(alone, clustered, 200)
        rows.append(["added_seconds, ms", spread(differences(theirs, ours), 1)])
    rows += _waiting(folder, environ)
    with serving(folder, **DEMO, **on_ray(1)) as server:
        measure_load(server, 4, 5)
        (replica,) = replicas_of(server.process)
        rows.append(["replica_bytes (the demo), MB", f"{replica.memory_info().rss / 1e6:.0f}"])
    show(["measure", "figure"], rows)


def _simulated(*, step: float = 0.0, row: float = 0.0, size: int = 0) -> dict[str, str]:
    return {
        "SIMULATED_STEP_SECONDS": str(step),
        "SIMULATED_ROW_SECONDS": str(row),
        "SIMULATED_PICTURE_BYTES": str(size),
    }


def _front_seconds(folder: Path, environ: dict[str, str], seconds: float) -> dict[tuple[int, int], list[float]]:
    """Return the CPU seconds of a busy front for a picture, by steps and bytes, measured in turn."""
    measured: dict[tuple[int, int], list[float]] = {case: [] for case in _CASES}
    with ExitStack() as stack:
        servers = {
            (steps, size): stack.enter_context(
                serving(folder, **environ, **_simulated(row=_PICTURE_SECONDS / steps, size=size), **on_ray(2))
            )
            for steps, size in _CASES
        }
        for _ in range(_ROUNDS + 1):
            for (steps, size), server in servers.items():
                with _throttled(server.process, _CORES):
                    before = server.seconds()
                    load = measure_load(server, 16, seconds, warm_up=0.0, num_inference_steps=steps)
                    measured[steps, size].append((server.seconds() - before) / sum(load.statuses.values()))
    return {case: values[1:] for case, values in measured.items()}


def _waiting(folder: Path, environ: dict[str, str]) -> list[list[str]]:
    """Return table rows about the front's memory, without requests and with many waiting requests."""
    with serving(folder, **environ, **_simulated(row=5.0), **on_ray(1)) as server:
        empty = server.process.memory_info().rss
        per_request, busy = asyncio.run(_hold(server, empty))
        (replica,) = replicas_of(server.process)
        return [
            ["resident_bytes of the front, MB", f"{empty / 1e6:.0f}"],
            ["waiting_bytes, kB", f"{per_request / 1e3:.0f}"],
            [f"the front's share of a core with {_WAITING:,} waiting requests", f"{busy:.2f}"],
            ["a replica without torch, MB", f"{replica.memory_info().rss / 1e6:.0f}"],
        ]


async def _hold(server: Server, empty: int) -> tuple[float, float]:
    """Return the front's bytes for each waiting request, and its share of a core, while many requests wait."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=600)) as http:

        async def request(seed: int) -> None:
            await http.post(f"{server.url}/generate", json={"prompt": "a star", "seed": seed})

        tasks = [asyncio.ensure_future(request(seed)) for seed in range(_WAITING)]
        await asyncio.to_thread(until, lambda: server.health()["engine"]["waiting"] >= 0.98 * _WAITING)
        before, began = server.seconds(), time.monotonic()
        await asyncio.sleep(3)
        busy = (server.seconds() - before) / (time.monotonic() - began)
        memory = server.process.memory_info().rss - empty
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return memory / _WAITING, busy


def capacity(folder: Path, seconds: float) -> None:
    """Predict and measure cells of several sizes, loads and kinds of steps."""
    rows = []
    for check in CHECKS:
        measured, busy = _measured(folder, check, seconds)
        cores = check.front.cores if check.front.cores >= 1 else busy  # its threads run in parallel, so it gets more
        predicted = cell_rate(check.kind, replace(check.front, cores=cores), check.replicas, check.clients)
        figures = (predicted, measured, measured / predicted, busy)
        rows.append([check.what, str(check.replicas), str(check.clients), *(f"{figure:.2f}" for figure in figures)])
    show(["case", "replicas", "clients", "predicted", "measured", "ratio", "front's share of a core"], rows)


def _measured(folder: Path, check: Check, seconds: float) -> tuple[float, float]:
    """Return the pictures a second and the front's share of a core."""
    kind = check.kind
    simulated = _simulated(step=kind.step_seconds, row=kind.row_seconds)
    with serving(folder, **installed(folder), **simulated, **on_ray(check.replicas)) as server:
        measure_load(server, check.clients, 5, num_inference_steps=kind.steps)
        with _throttled(server.process, check.front.cores):
            before, began = server.seconds(), time.monotonic()
            load = measure_load(server, check.clients, seconds, num_inference_steps=kind.steps)
            return load.per_second, (server.seconds() - before) / (time.monotonic() - began)


@contextmanager
def _throttled(process: psutil.Process, cores: float) -> Iterator[None]:
    """Let a process run only a share of the time, because two cores cannot keep a front busy."""
    stopped = threading.Event()

    def turns() -> None:
        began = time.monotonic()
        for number in count():
            process.suspend()
            stopped.wait(began + (number + 1 - cores) * _PERIOD - time.monotonic())
            process.resume()
            if stopped.wait(began + (number + 1) * _PERIOD - time.monotonic()):
                return

    thread = threading.Thread(target=turns)
    if cores < 1:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        if cores < 1:
            thread.join()
