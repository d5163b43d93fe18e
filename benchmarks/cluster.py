"""The engine on a Ray cluster: how it scales, what Ray costs, what is lost with a replica, and what was predicted.

Where GPUs would draw, the worker of `simulated.py` sleeps for as long; the demo model draws where pictures count. Each
subcommand prints its table: ``scale``, ``overhead``, ``kills``, ``constants``, ``capacity``. Needs
``pip install 'imagegen-core[ray]'``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

import cluster_capacity
import cluster_kills
import cluster_overhead
from cluster_servers import ask, on_ray, serving
from figures import show
from simulated import installed

SIZES = (1, 2, 4, 8)
CLIENTS = 4  # a replica


def scale(folder: Path, seconds: float) -> None:
    """Pictures a second of more and more replicas, against so many times one's, which is measured twice."""
    loads = []
    for replicas in (*SIZES, 1):
        with serving(folder, **installed(folder), **on_ray(replicas)) as server:
            loads.append((replicas, ask(server, CLIENTS * replicas, seconds)))
    one = median(load.per_second for replicas, load in loads if replicas == 1)
    rows = [
        [
            str(replicas),
            f"{load.per_second:.2f}",
            f"{load.per_second / (replicas * one):.3f}",
            f"{load.p50:.2f}",
            f"{load.p95:.2f}",
        ]
        for replicas, load in loads
    ]
    show(["replicas", "pictures a second", "over so many times one's (to reach: 0.9)", "p50, s", "p95, s"], rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("scale")
    one.add_argument("--seconds", type=float, default=20)
    one = commands.add_parser("overhead")
    one.add_argument("--pairs", type=int, default=100)
    one.add_argument("--rounds", type=int, default=6)
    one.add_argument("--seconds", type=float, default=15)
    one = commands.add_parser("kills")
    one.add_argument("--kills", type=int, default=20)
    one.add_argument("--log", type=Path, required=True)
    one = commands.add_parser("constants")
    one.add_argument("--seconds", type=float, default=20)
    one = commands.add_parser("capacity")
    one.add_argument("--seconds", type=float, default=20)
    given = vars(parser.parse_args())
    with tempfile.TemporaryDirectory() as name:
        run = {
            "scale": scale,
            "overhead": cluster_overhead.overhead,
            "kills": cluster_kills.kills,
            "constants": cluster_capacity.constants,
            "capacity": cluster_capacity.capacity,
        }[given.pop("command")]
        run(Path(name), **given)


if __name__ == "__main__":
    main()
