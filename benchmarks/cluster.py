"""Measure the engine on a Ray cluster: scaling, Ray's cost, losses with a killed replica, and predicted capacity.

The worker of `simulated.py` sleeps for the time of a GPU's steps; the demo model draws if the pictures matter. Each
subcommand prints its table: ``scale``, ``overhead``, ``kills``, ``constants``, ``capacity``. This needs
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
from cluster_servers import measure_load, on_ray, serving
from figures import show
from simulated import installed

SIZES = (1, 2, 4, 8)
CLIENTS = 4  # for each replica


def scale(folder: Path, seconds: float) -> None:
    """Compare the throughput of several replicas with linear scaling; measure one replica twice."""
    loads = []
    for replicas in (*SIZES, 1):
        with serving(folder, **installed(folder), **on_ray(replicas)) as server:
            loads.append((replicas, measure_load(server, CLIENTS * replicas, seconds)))
    single = median(load.per_second for replicas, load in loads if replicas == 1)
    rows = [
        [
            str(replicas),
            f"{load.per_second:.2f}",
            f"{load.per_second / (replicas * single):.3f}",
            f"{load.p50:.2f}",
            f"{load.p95:.2f}",
        ]
        for replicas, load in loads
    ]
    show(["replicas", "pictures a second", "ratio to linear scaling (target: 0.9)", "p50, s", "p95, s"], rows)


def main() -> None:
    """Run the measurements and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("scale")
    command.add_argument("--seconds", type=float, default=20)
    command = commands.add_parser("overhead")
    command.add_argument("--pairs", type=int, default=100)
    command.add_argument("--rounds", type=int, default=6)
    command.add_argument("--seconds", type=float, default=15)
    command = commands.add_parser("kills")
    command.add_argument("--kills", type=int, default=20)
    command.add_argument("--log", type=Path, required=True)
    command = commands.add_parser("constants")
    command.add_argument("--seconds", type=float, default=20)
    command = commands.add_parser("capacity")
    command.add_argument("--seconds", type=float, default=20)
    arguments = vars(parser.parse_args())
    with tempfile.TemporaryDirectory() as name:
        run = {
            "scale": scale,
            "overhead": cluster_overhead.overhead,
            "kills": cluster_kills.kills,
            "constants": cluster_capacity.constants,
            "capacity": cluster_capacity.capacity,
        }[arguments.pop("command")]
        run(Path(name), **arguments)


if __name__ == "__main__":
    main()
