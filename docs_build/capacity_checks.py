"""Comparisons of the model of `capacity.py` with a simulated cluster, and the measured results."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from capacity import Front, Kind, Sdxl


@dataclass(frozen=True)
class Check:
    """A cell under a load that never pauses.

    Attributes:
        what: The particular property of the cell.
        kind: The kind of picture that the simulated GPUs draw.
        replicas: Number of replicas.
        clients: Number of clients.
        front: The front. If it has less than a core, it is stopped for about the rest of the time. Its actual share of
            a core counts.
        measured: Pictures a second, from the last run of `benchmarks/cluster.py capacity`.
    """

    what: str
    kind: Kind
    replicas: int
    clients: int
    measured: float
    front: Front = field(default_factory=Front)


# Nothing to decode, and almost no bytes.
_ALONE = replace(Sdxl(), decode_seconds=0.0, png_bytes=300.0)
_TOGETHER = replace(_ALONE, step_seconds=0.1, row_seconds=0.02, rows=8)
_QUICK = replace(_ALONE, row_seconds=0.0005, steps=8)

CHECKS = (
    Check("batches do not pay", _ALONE, 1, 4, 2.00),
    Check("batches do not pay", _ALONE, 4, 16, 8.00),
    Check("batches do not pay", _ALONE, 8, 32, 16.00),
    Check("the same, two clients a replica", _ALONE, 8, 16, 15.50),
    Check("the same, fewer clients than replicas", _ALONE, 8, 2, 3.90),
    Check("batches of 8 pay", _TOGETHER, 4, 32, 27.60),
    Check("the same, half as many clients", _TOGETHER, 4, 16, 19.55),
    Check("short steps, and a front with 0.23 of a core", _QUICK, 4, 16, 28.25, replace(Front(), cores=0.23)),
    Check("the same, 0.45 of a core", _QUICK, 4, 16, 52.90, replace(Front(), cores=0.45)),
)
