"""Estimate the pictures, memory and costs of a number of GPUs, from named constants.

Plain arithmetic, without Ray or torch: the page `docs/capacity.md` shows its tables, and ``python
docs_build/capacity.py --gpus 64`` takes your own numbers.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

HERE = "`benchmarks/cluster.py constants`, two cores of an AMD EPYC"
HOUR = 3600.0


def measured(value: Any, what: str, where: str = HERE) -> Any:
    """Return a field for a measured constant, with the place of the measurement."""
    return field(default=value, metadata={"what": what, "basis": f"measured: {where}"})


def assumed(value: Any, what: str, why: str) -> Any:
    """Return a field for an assumed constant, with the reason for its value."""
    return field(default=value, metadata={"what": what, "basis": f"assumption: {why}"})


@dataclass(frozen=True)
class Kind:
    """A kind of picture and its times on a GPU. No GPU was measured."""

    steps: int
    step_seconds: float
    row_seconds: float
    rows: int
    decode_seconds: float
    png_bytes: float
    parameters: float
    working_bytes: float


@dataclass(frozen=True)
class Sdxl(Kind):
    """SDXL, 1024 × 1024, LCM."""

    steps: int = assumed(4, "steps of a picture", "LCM's usual number")
    step_seconds: float = assumed(0.0, "fixed seconds of a step", "one row fills the GPU at this size")
    row_seconds: float = assumed(
        0.125, "seconds of a step for each row", "a guess at a card of 24 GB; `imagegen bench` measures yours"
    )
    rows: int = assumed(1, "most efficient rows of a step", "one row fills the GPU at this size")
    decode_seconds: float = assumed(0.25, "seconds to decode a picture", "a guess: the VAE computes in fp32")
    png_bytes: float = assumed(1.5e6, "bytes of a PNG", "about half of its pixels' 3.1 MB")
    parameters: float = assumed(
        3.48e9, "parameters", "2.6 B of the UNet, 0.8 B of two text encoders, 0.08 B of the VAE"
    )
    working_bytes: float = assumed(
        6e9, "bytes of GPU memory beside the weights", "a guess: decoding in fp32, CUDA's own"
    )


@dataclass(frozen=True)
class Sd15(Kind):
    """SD1.5, 512 × 512, LCM."""

    steps: int = assumed(4, "steps of a picture", "LCM's usual number")
    step_seconds: float = assumed(0.01, "fixed seconds of a step", "a guess: small pictures fill no GPU")
    row_seconds: float = assumed(
        0.02, "seconds of a step for each row", "a guess at a card of 24 GB; `imagegen bench` measures yours"
    )
    rows: int = assumed(4, "most efficient rows of a step", "a guess; the engine measures yours")
    decode_seconds: float = assumed(0.04, "seconds to decode a picture", "a guess")
    png_bytes: float = assumed(0.4e6, "bytes of a PNG", "about half of its pixels' 0.8 MB")
    parameters: float = assumed(0.98e9, "parameters", "UNet, text encoder and VAE of the released checkpoint")
    working_bytes: float = assumed(2e9, "bytes of GPU memory beside the weights", "a guess: decoding, CUDA's own")


@dataclass(frozen=True)
class Front:
    """The HTTP process of a cell."""

    request_seconds: float = measured(0.0066, "CPU seconds of a busy front for a picture")
    event_seconds: float = measured(0.00024, "CPU seconds of a busy front for each step of it")
    megabyte_seconds: float = measured(0.0020, "CPU seconds of a busy front for each megabyte of it")
    cores: float = assumed(1.0, "usable cores of the front", "Python's lock; 0.73 was measured on two shared cores")
    headroom: float = assumed(0.6, "planned share of those cores", "above it, requests wait for the front")
    most_replicas: int = assumed(64, "replicas of a cell at most", "eight were measured; not too far beyond")
    resident_bytes: float = measured(170e6, "bytes of the front")
    waiting_bytes: float = measured(68e3, "bytes of the front for each waiting request")
    waiting: int = assumed(1000, "waiting requests at one front", "set IMAGEGEN_QUEUE_MAX to it")
    added_seconds: float = measured(0.0062, "seconds Ray adds to a request")


@dataclass(frozen=True)
class Site:
    """All cells, their failures and their prices."""

    failures: float = assumed(
        2e-5, "failures of a GPU in an hour", "419 in 54 days of 16,384 GPUs, reported for the training of Llama 3"
    )
    repair_hours: float = assumed(24.0, "hours until a GPU is back", "repair on the next day")
    risk: float = assumed(0.001, "probability of too few spare GPUs", "nine hours of a year")
    gpu_price: float = assumed(1.0, "dollars of a GPU's hour", "about the price of a card of 24 GB in a cloud")
    cpu_price: float = assumed(0.04, "dollars of a CPU core's hour", "about a cloud's price")
    gpu_cores: float = assumed(2.0, "CPU cores for a GPU", "one for the steps, one for PNGs and Ray")
    cell_cores: float = assumed(
        4.0, "CPU cores for a cell's front and Ray's head", "one for the front, the rest for Ray"
    )
    load: float = assumed(0.6, "requested share of the possible pictures", "nights, and room for peaks")
    replica_bytes: float = measured(607e6, "host memory of a replica beside its weights, the demo's")
    ttl: float = assumed(3600.0, "seconds a stored picture is kept", "STORAGE_TTL_IMAGE's default")


@dataclass(frozen=True)
class Plan:
    """The estimate for a number of GPUs.

    Attributes:
        gpus: Number of GPUs.
        idle: Number of idle GPUs, which replace failed GPUs.
        cells: Number of Ray clusters, each with its front.
        per_second: Pictures a second.
        cost: Dollars for 1,000 pictures, at the site's load.
        host_bytes: Used memory of all machines, by replicas and fronts.
        gpu_bytes: Used memory of each GPU.
        store_bytes: Bytes of the pictures in the store.
        network: Bytes a second between replicas, fronts, store and clients.
    """

    gpus: int
    idle: int
    cells: int
    per_second: float
    cost: float
    host_bytes: float
    gpu_bytes: float
    store_bytes: float
    network: float


def replica_rate(kind: Kind, in_flight: float = math.inf) -> float:
    """Return the pictures a second of a replica that always has `in_flight` requests."""
    rows = max(1.0, min(kind.rows, in_flight))
    return rows / (kind.steps * (kind.step_seconds + rows * kind.row_seconds) + rows * kind.decode_seconds)


def picture_seconds(kind: Kind, front: Front) -> float:
    """Return the seconds of a request without other requests."""
    return kind.steps * (kind.step_seconds + kind.row_seconds) + kind.decode_seconds + front.added_seconds


def front_seconds(kind: Kind, front: Front) -> float:
    """Return the CPU seconds of the front for a picture."""
    return front.request_seconds + kind.steps * front.event_seconds + kind.png_bytes / 1e6 * front.megabyte_seconds


def front_limit(kind: Kind, front: Front) -> float:
    """Return the pictures a second at which the front is fully busy."""
    return front.cores / front_seconds(kind, front)


def cell_rate(kind: Kind, front: Front, replicas: int, clients: float = math.inf) -> float:
    """Return the pictures a second of replicas behind one front, for clients that never pause."""
    drawn = replicas * replica_rate(kind, clients / replicas)
    return min(drawn, front_limit(kind, front), clients / picture_seconds(kind, front))


def cell_size(kind: Kind, front: Front) -> int:
    """Return the maximum number of replicas for one front with its headroom."""
    carried = int(front.headroom * front_limit(kind, front) / replica_rate(kind))
    return max(1, min(front.most_replicas, carried))


def spares(gpus: int, site: Site) -> int:
    """Return the number of GPUs to keep idle, which is always less than `gpus`.

    Except for the risk, at most this number of GPUs is in repair at a time.
    """
    mean = gpus * site.failures * site.repair_hours
    kept, term = 0, math.exp(-mean)
    within = term
    while within < 1 - site.risk and kept < gpus - 1:
        kept += 1
        term *= mean / kept
        within += term
    return kept


def plan(gpus: int, kind: Kind, front: Front | None = None, site: Site | None = None, cell: int | None = None) -> Plan:
    """Estimate the results of a number of GPUs.

    Args:
        gpus: Number of GPUs, at least 1.
        kind: The kind of picture.
        front: The front of each cell.
        site: The cells' failures and prices.
        cell: Replicas of a cell; None is the maximum for a front with its headroom.
    """
    front, site = front or Front(), site or Site()
    idle = spares(gpus, site)
    serving, size = gpus - idle, cell or cell_size(kind, front)
    full, rest = divmod(serving, size)
    per_second = full * cell_rate(kind, front, size) + (cell_rate(kind, front, rest) if rest else 0)
    cells = full + bool(rest)
    hourly = gpus * (site.gpu_price + site.gpu_cores * site.cpu_price) + cells * site.cell_cores * site.cpu_price
    weights = 2 * kind.parameters  # in fp16
    requested = site.load * per_second
    return Plan(
        gpus=gpus,
        idle=idle,
        cells=cells,
        per_second=per_second,
        cost=1000 * hourly / (requested * HOUR),
        host_bytes=gpus * (site.replica_bytes + weights)
        + cells * (front.resident_bytes + front.waiting * front.waiting_bytes),
        gpu_bytes=weights + kind.working_bytes,
        store_bytes=requested * site.ttl * kind.png_bytes,
        network=3 * per_second * kind.png_bytes,  # replica to front, front to client, front to store
    )


def plan_rows(plans: Sequence[Plan]) -> list[list[str]]:
    """Return plans as rows of a table with the columns `PLAN_COLUMNS`."""
    return [
        [
            f"{estimate.gpus:,}",
            f"{estimate.idle:,}",
            f"{estimate.cells:,}",
            f"{estimate.per_second:,.1f}",
            f"{estimate.cost:.2f}",
            f"{estimate.host_bytes / 1e9:,.0f}",
            f"{estimate.gpu_bytes / 1e9:.1f}",
            f"{estimate.store_bytes / 1e9:,.1f}",
            f"{estimate.network / 1e6:,.1f}",
        ]
        for estimate in plans
    ]


PLAN_COLUMNS = (
    "GPUs",
    "kept idle",
    "cells",
    "pictures a second",
    "$ for 1,000",
    "host memory, GB",
    "GPU memory, each, GB",
    "store, GB",
    "network, MB/s",
)
KINDS = {"sdxl": Sdxl, "sd15": Sd15}
SIZES = (1, 8, 64, 512, 4096, 10_000)


def main() -> None:
    """Estimate with your own numbers: each constant is an option."""
    from tables import table

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kind", choices=KINDS, default="sdxl", help="kind of picture; its numbers are the defaults")
    parser.add_argument("--gpus", type=int, nargs="+", default=SIZES, help="numbers of GPUs")
    parser.add_argument("--cell", type=int, help="replicas of a cell; by default the maximum for a front")
    for part in (Sdxl, Front, Site):
        for constant in fields(part):
            option = f"--{constant.name.replace('_', '-')}"
            parser.add_argument(option, type=type(constant.default), help=constant.metadata["what"])
    options = vars(parser.parse_args())

    def adjusted(part: Any) -> Any:
        return replace(
            part,
            **{
                constant.name: options[constant.name] for constant in fields(part) if options[constant.name] is not None
            },
        )

    kind, front, site = adjusted(KINDS[options["kind"]]()), adjusted(Front()), adjusted(Site())
    plans = [plan(gpus, kind, front, site, options["cell"]) for gpus in options["gpus"]]
    print(table(PLAN_COLUMNS, plan_rows(plans)))  # noqa: T201 - the program's output


if __name__ == "__main__":
    main()
