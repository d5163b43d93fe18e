"""The arithmetic of the capacity page."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docs_build.capacity import (
    KINDS,
    Front,
    Kind,
    Sdxl,
    Site,
    cell_rate,
    cell_size,
    front_limit,
    plan,
    replica_rate,
    spares,
)

FRONT, SITE = Front(), Site()
ROOT = Path(__file__).parent.parent

kinds = st.builds(
    replace,
    st.sampled_from([make() for make in KINDS.values()]),
    steps=st.integers(1, 50),
    step_seconds=st.floats(0, 1),
    row_seconds=st.floats(0.0005, 1),
    rows=st.integers(1, 16),
    decode_seconds=st.floats(0, 1),
    png_bytes=st.floats(100, 1e7),
)


@pytest.mark.parametrize(
    ("changes", "in_flight", "rate"),
    [
        ({"row_seconds": 0.1, "decode_seconds": 0.1}, math.inf, 2.0),
        ({"row_seconds": 0.1, "decode_seconds": 0.1}, 1, 2.0),
        ({"step_seconds": 0.2, "row_seconds": 0.05, "decode_seconds": 0.05, "rows": 4}, math.inf, 4 / (1.6 + 0.2)),
        ({"step_seconds": 0.2, "row_seconds": 0.05, "decode_seconds": 0.05, "rows": 4}, 2, 2 / (1.2 + 0.1)),
    ],
)
def test_the_rows_of_a_replica_share_its_steps(changes: dict[str, float], in_flight: float, rate: float) -> None:
    assert replica_rate(replace(Sdxl(), **changes), in_flight) == pytest.approx(rate)


@given(kind=kinds, replicas=st.integers(1, 500), clients=st.floats(1, 5000))
def test_a_cell_never_exceeds_its_front_or_its_replicas(kind: Kind, replicas: int, clients: float) -> None:
    rate = cell_rate(kind, FRONT, replicas, clients)
    assert rate <= front_limit(kind, FRONT)
    assert rate <= replicas * replica_rate(kind) * (1 + 1e-9)


@given(kind=kinds)
def test_a_front_keeps_its_headroom_unless_one_replica_exceeds_it(kind: Kind) -> None:
    size = cell_size(kind, FRONT)
    drawn = size * replica_rate(kind)
    assert size == 1 or drawn <= FRONT.headroom * front_limit(kind, FRONT) * (1 + 1e-9)


@pytest.mark.parametrize("name", KINDS)
def test_one_gpu_draws_as_much_as_its_replica(name: str) -> None:
    kind = KINDS[name]()
    alone = plan(1, kind)
    assert alone.per_second == replica_rate(kind)
    assert (alone.idle, alone.cells) == (0, 1)


def test_idle_gpus_draw_nothing() -> None:
    eight = plan(8, Sdxl())
    assert (eight.idle, eight.per_second) == (1, pytest.approx(7 * replica_rate(Sdxl())))


@given(kind=kinds, gpus=st.integers(1, 20_000))
def test_another_gpu_never_reduces_the_plan(kind: Kind, gpus: int) -> None:
    fewer, more = plan(gpus, kind), plan(gpus + 1, kind)
    for name in ("per_second", "cells", "idle", "host_bytes", "store_bytes", "network"):
        assert getattr(more, name) >= getattr(fewer, name) * (1 - 1e-12)


@given(gpus=st.integers(1, 20_000), failures=st.floats(0, 1e-3))
def test_spares_cover_the_failures_except_for_the_risk(gpus: int, failures: float) -> None:
    site = replace(SITE, failures=failures)
    idle, mean = spares(gpus, site), gpus * failures * site.repair_hours

    def probability_of_at_most(count: int) -> float:
        return sum(math.exp(n * math.log(mean) - mean - math.lgamma(n + 1)) for n in range(count + 1)) if mean else 1.0

    assert 0 <= idle < gpus
    assert idle == gpus - 1 or probability_of_at_most(idle) >= 1 - site.risk - 1e-9
    assert idle == 0 or probability_of_at_most(idle - 1) < 1 - site.risk + 1e-9


def test_the_cost_is_the_hourly_price_divided_by_the_pictures() -> None:
    site = replace(SITE, gpu_price=2.0, gpu_cores=1.0, cell_cores=5.0, cpu_price=0.1, load=0.5)
    kind = replace(Sdxl(), row_seconds=0.2, decode_seconds=0.2)  # one picture a second
    assert plan(1, kind, site=site).cost == pytest.approx(1000 * (2.0 + 0.1 + 0.5) / 1800)


def test_constants_are_command_line_options() -> None:
    program = [sys.executable, ROOT / "docs_build/capacity.py", "--gpus", "1", "--row-seconds", "0.2"]
    done = subprocess.run(
        [*program, "--decode-seconds", "0.2", "--cell", "1"], capture_output=True, text=True, check=True
    )
    assert [line.split(" | ")[3] for line in done.stdout.splitlines()] == ["pictures a second", "---", "1.0"]
