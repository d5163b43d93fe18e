"""Measure Ray's cost: one replica and a server without Ray draw the same pictures, in turn."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import httpx2 as httpx
from cluster_servers import DEMO, Server, measure_load, on_ray, serving
from figures import show, spread

_WARM_UP = 10


def overhead(folder: Path, pairs: int, rounds: int, seconds: float) -> None:
    """Measure the demo's latencies with one client, and its pictures a second with four clients."""
    with serving(folder, **DEMO) as alone, serving(folder, **DEMO, **on_ray(1, cpus=1)) as clustered:
        theirs, ours = latencies(alone, clustered, pairs)
        ratios = []
        for number in range(rounds):
            order = (alone, clustered) if number % 2 else (clustered, alone)
            rates = {server.url: measure_load(server, 4, seconds).per_second for server in order}
            ratios.append(rates[clustered.url] / rates[alone.url])
    rows = [
        ["one process, one client, p50", f"{median(theirs):.1f} ms", ""],
        ["one replica, one client, p50", f"{median(ours):.1f} ms", ""],
        ["Ray's cost for a request", f"{spread(differences(theirs, ours), 1)} ms", "at most 15 ms at the median"],
        ["identical pictures, byte for byte", f"{len(ours)} of {len(ours)}", "all"],
        ["4 clients, pictures a second, ratio", spread(ratios), "at least 0.9"],
    ]
    show(["measure", "figure", "target"], rows)


def latencies(alone: Server, clustered: Server, pairs: int) -> tuple[list[float], list[float]]:
    """Return the milliseconds of each request to each of the two servers.

    Raises:
        RuntimeError: The servers drew different pictures.
    """
    milliseconds: dict[str, list[float]] = {alone.url: [], clustered.url: []}
    with httpx.Client(timeout=120) as http:
        for number in range(pairs + _WARM_UP):
            pictures = set()
            for server in (alone, clustered) if number % 2 else (clustered, alone):
                response = http.post(f"{server.url}/generate", json={"prompt": "a red star", "seed": number})
                response.raise_for_status()
                pictures.add(response.content)
                milliseconds[server.url].append(1000 * response.elapsed.total_seconds())
            if len(pictures) > 1:
                raise RuntimeError(f"Seed {number} gives another picture on the cluster")
    return milliseconds[alone.url][_WARM_UP:], milliseconds[clustered.url][_WARM_UP:]


def differences(theirs: list[float], ours: list[float]) -> list[float]:
    """Subtract pair by pair."""
    return [own - other for own, other in zip(ours, theirs, strict=True)]
