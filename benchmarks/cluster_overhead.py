"""What Ray adds: the same drawn by one replica, and in the server's own process, both up at once and asked in turn."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import httpx2 as httpx
from cluster_servers import DEMO, Server, ask, on_ray, serving
from figures import show, spread

_WARM_UP = 10


def overhead(folder: Path, pairs: int, rounds: int, seconds: float) -> None:
    """The demo's latencies with one client, and pictures a second with four."""
    with serving(folder, **DEMO) as alone, serving(folder, **DEMO, **on_ray(1, cpus=1)) as clustered:
        theirs, ours = latencies(alone, clustered, pairs)
        ratios = []
        for number in range(rounds):
            order = (alone, clustered) if number % 2 else (clustered, alone)
            taken = {server.url: ask(server, 4, seconds).per_second for server in order}
            ratios.append(taken[clustered.url] / taken[alone.url])
    rows = [
        ["one process, one client, p50", f"{median(theirs):.1f} ms", ""],
        ["one replica, one client, p50", f"{median(ours):.1f} ms", ""],
        ["what Ray adds to a request", f"{spread(differences(theirs, ours), 1)} ms", "at most 15 ms at the median"],
        ["pictures that are the same, byte for byte", f"{len(ours)} of {len(ours)}", "all"],
        ["4 clients, pictures a second, ratio", spread(ratios), "at least 0.9"],
    ]
    show(["what", "figure", "to reach"], rows)


def latencies(alone: Server, clustered: Server, pairs: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each request, to the one and to the other.

    Raises:
        RuntimeError: They drew different pictures.
    """
    taken: dict[str, list[float]] = {alone.url: [], clustered.url: []}
    with httpx.Client(timeout=120) as http:
        for number in range(pairs + _WARM_UP):
            pictures = set()
            for server in (alone, clustered) if number % 2 else (clustered, alone):
                answer = http.post(f"{server.url}/generate", json={"prompt": "a red star", "seed": number})
                answer.raise_for_status()
                pictures.add(answer.content)
                taken[server.url].append(1000 * answer.elapsed.total_seconds())
            if len(pictures) > 1:
                raise RuntimeError(f"Seed {number} is another picture on the cluster")
    return taken[alone.url][_WARM_UP:], taken[clustered.url][_WARM_UP:]


def differences(theirs: list[float], ours: list[float]) -> list[float]:
    """Pair by pair."""
    return [one - other for one, other in zip(ours, theirs, strict=True)]
