"""The tables of the capacity page, made from the model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from capacity import KINDS, PLAN_COLUMNS, SIZES, Front, Site, cell_rate, cell_size, front_limit, plan, plan_rows
from capacity_checks import CHECKS
from tables import table

_MILLION = 1e6
_MARK = re.compile(r"<!-- docs_build/capacity_page\.py: (?P<name>[a-z0-9 ]+) -->")


def filled(markdown: str) -> str:
    """Return the page with its tables in place of the comments that name them."""
    return _MARK.sub(lambda mark: TABLES[mark["name"]](), markdown)


def _constants(part: Any) -> str:
    """Return a table of constants with their sources."""
    rows = [
        (
            f"`{constant.name}`",
            constant.metadata["what"],
            _number(getattr(part, constant.name)),
            constant.metadata["basis"],
        )
        for constant in fields(part)
    ]
    return table(["name", "meaning", "value", "source"], rows)


def _number(value: float) -> str:
    return f"{value / _MILLION:,g} million" if value >= _MILLION / 10 else f"{value:,g}"


def _plans(name: str) -> str:
    kind = KINDS[name]()
    return table(PLAN_COLUMNS, plan_rows([plan(gpus, kind) for gpus in SIZES]))


def _cells() -> str:
    front = Front()
    rows = []
    for make in KINDS.values():
        kind, size = make(), cell_size(make(), front)
        most, drawn = front_limit(kind, front), cell_rate(kind, front, size)
        rows.append(((make.__doc__ or "").rstrip("."), f"{most:.0f}", str(size), f"{drawn:.0f}"))
    return table(["picture", "a front's limit, pictures a second", "replicas of a cell", "its pictures a second"], rows)


def _checks() -> str:
    rows = []
    for check in CHECKS:
        predicted = cell_rate(check.kind, check.front, check.replicas, check.clients)
        figures = (f"{predicted:.2f}", f"{check.measured:.2f}", f"{check.measured / predicted:.2f}")
        rows.append((check.what, str(check.replicas), str(check.clients), *figures))
    columns = ["cell", "replicas", "clients", "predicted, pictures a second", "measured", "ratio"]
    return table(columns, rows)


TABLES: Mapping[str, Callable[[], str]] = {
    **{f"constants {name}": lambda make=make: _constants(make()) for name, make in KINDS.items()},
    "constants front": lambda: _constants(Front()),
    "constants site": lambda: _constants(Site()),
    **{f"plans {name}": lambda name=name: _plans(name) for name in KINDS},
    "cells": _cells,
    "checks": _checks,
}
"""The functions of the tables, by the names in the page."""
