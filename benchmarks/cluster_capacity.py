"""The constants of the front that `docs_build/capacity.py` reckons with, and how well its predictions are met."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median

import aiohttp
from cluster_overhead import differences, latencies
from cluster_servers import DEMO, Server, ask, on_ray, replicas_of, serving, until
from figures import show, spread
from simulated import installed

from docs_build.capacity import Front, Kind, Sdxl, cell_rate

_PICTURE_SECONDS = 0.032  # so short that the front has something to do, so long that it has not all
_CASES = (  # steps, bytes of a picture
    (4, 0),
    (20, 0),
    (4, 100_000),
    (4, 1_500_000),
)
_ROUNDS = 3
_WAITING = 1000
# What the simulated pictures are: nothing to decode, no bytes to speak of.
_PLAIN = replace(Sdxl(), decode_seconds=0.0, png_bytes=300.0)


def constants(folder: Path, seconds: float) -> None:
    """Measure the front's share of a picture, and its memory."""
    environ = installed(folder)
    spreads = _front_seconds(folder, environ, seconds)
    rows = [
        [f"front, CPU ms of a picture, {steps} steps, {size:,} B", spread([1000 * one for one in values], 1)]
        for (steps, size), values in spreads.items()
    ]
    took = {case: median(values) for case, values in spreads.items()}
    event = (took[20, 0] - took[4, 0]) / 16
    rows += [
        ["request_seconds", f"{took[4, 0] - 4 * event:.4f}"],
        ["event_seconds", f"{event:.5f}"],
        ["megabyte_seconds", f"{(took[4, 1_500_000] - took[4, 0]) / 1.5:.4f}"],
    ]
    quick = environ | _simulated(row=0.002)
    with serving(folder, **quick) as alone, serving(folder, **quick, **on_ray(1)) as clustered:
        theirs, ours = latencies(alone, clustered, 200)
        rows.append(["added_seconds, ms", spread(differences(theirs, ours), 1)])
    rows += _waiting(folder, environ)
    with serving(folder, **DEMO, **on_ray(1)) as server:
        ask(server, 4, 5)
        (replica,) = replicas_of(server.process)
        rows.append(["replica_bytes (the demo), MB", f"{replica.memory_info().rss / 1e6:.0f}"])
    show(["what", "figure"], rows)


def _simulated(*, step: float = 0.0, row: float = 0.0, size: int = 0) -> dict[str, str]:
    return {
        "SIMULATED_STEP_SECONDS": str(step),
        "SIMULATED_ROW_SECONDS": str(row),
        "SIMULATED_PICTURE_BYTES": str(size),
    }


def _front_seconds(folder: Path, environ: dict[str, str], seconds: float) -> dict[tuple[int, int], list[float]]:
    """CPU seconds of the front for a picture, by its steps and bytes, measured in turn."""
    took: dict[tuple[int, int], list[float]] = {case: [] for case in _CASES}
    with ExitStack() as up:
        servers = {
            (steps, size): up.enter_context(
                serving(folder, **environ, **_simulated(row=_PICTURE_SECONDS / steps, size=size), **on_ray(1))
            )
            for steps, size in _CASES
        }
        for _ in range(_ROUNDS + 1):
            for (steps, size), server in servers.items():
                before = server.seconds()
                load = ask(server, 4, seconds, warm_up=0.0, num_inference_steps=steps)
                took[steps, size].append((server.seconds() - before) / sum(load.statuses.values()))
    return {case: values[1:] for case, values in took.items()}


def _waiting(folder: Path, environ: dict[str, str]) -> list[list[str]]:
    """Rows on the front's memory, with nobody there and with many who wait."""
    with serving(folder, **environ, **_simulated(row=5.0), **on_ray(1)) as server:
        empty = server.process.memory_info().rss
        per_request, busy = asyncio.run(_hold(server, empty))
        (replica,) = replicas_of(server.process)
        return [
            ["resident_bytes of the front, MB", f"{empty / 1e6:.0f}"],
            ["waiting_bytes, kB", f"{per_request / 1e3:.0f}"],
            [f"the front's share of a core while {_WAITING:,} wait", f"{busy:.2f}"],
            ["a replica without torch, MB", f"{replica.memory_info().rss / 1e6:.0f}"],
        ]


async def _hold(server: Server, empty: int) -> tuple[float, float]:
    """The front's bytes for each request while many wait, and its share of a core meanwhile."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=600)) as http:

        async def one(seed: int) -> None:
            await http.post(f"{server.url}/generate", json={"prompt": "a star", "seed": seed})

        asking = [asyncio.ensure_future(one(seed)) for seed in range(_WAITING)]
        await asyncio.to_thread(until, lambda: server.health()["engine"]["waiting"] >= 0.98 * _WAITING)
        before, began = server.seconds(), time.monotonic()
        await asyncio.sleep(3)
        busy = (server.seconds() - before) / (time.monotonic() - began)
        taken = server.process.memory_info().rss - empty
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    return taken / _WAITING, busy


def capacity(folder: Path, seconds: float) -> None:
    """Predict and measure, for cells of several sizes, loads and kinds of steps."""
    front = Front()
    slow, paying = replace(_PLAIN, row_seconds=0.125), replace(_PLAIN, step_seconds=0.1, row_seconds=0.02, rows=8)
    quick = replace(_PLAIN, row_seconds=0.001)
    cases = [
        ("batches do not pay", slow, 1, 4),
        ("batches do not pay", slow, 4, 16),
        ("batches do not pay", slow, 8, 32),
        ("the same, 2 clients a replica", slow, 8, 16),
        ("the same, fewer clients than replicas", slow, 8, 2),
        ("batches of 8 pay", paying, 4, 32),
        ("batches of 8 pay, half as many clients", paying, 4, 16),
        ("the front limits", quick, 4, 16),
    ]
    rows = []
    for what, kind, replicas, clients in cases:
        predicted = cell_rate(kind, front, replicas, clients)
        got, busy = _measured(folder, kind, replicas, clients, seconds)
        rows.append(
            [
                what,
                str(replicas),
                str(clients),
                f"{predicted:.2f}",
                f"{got:.2f}",
                f"{got / predicted:.2f}",
                f"{busy:.2f}",
            ]
        )
    show(["what", "replicas", "clients", "predicted", "measured", "ratio", "front's share of a core"], rows)


def _measured(folder: Path, kind: Kind, replicas: int, clients: int, seconds: float) -> tuple[float, float]:
    """Pictures a second, and the front's share of a core."""
    simulated = _simulated(step=kind.step_seconds, row=kind.row_seconds)
    with serving(folder, **installed(folder), **simulated, **on_ray(replicas)) as server:
        ask(server, clients, 5, num_inference_steps=kind.steps)
        before, began = server.seconds(), time.monotonic()
        load = ask(server, clients, seconds, num_inference_steps=kind.steps)
        return load.per_second, (server.seconds() - before) / (time.monotonic() - began)
