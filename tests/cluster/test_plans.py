"""The replicas' handshake: a replica with another numerics plan draws nothing, and says why."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from imagegen_core import NumericsPlan
from imagegen_core.cluster.plans import AgreedPlans, Handshake, PlanMismatchError
from imagegen_core.cluster.replica import Replica
from imagegen_core.modes import ModelKey
from tests.cluster.conftest import LIMIT, pytestmark
from tests.cluster.test_drawing import drawn

__all__ = ["pytestmark"]

PLAN = NumericsPlan("cuda", "fp16", processor="large", rows=4)
OTHER = replace(PLAN, processor="small", rows=None)
KEY = ModelKey(*["model"] * len(ModelKey._fields))


def _host(name: str, plan: NumericsPlan) -> Any:
    return SimpleNamespace(name=name, cards={KEY: SimpleNamespace(numerics=plan)})


def test_the_first_replicas_plan_counts() -> None:
    plans = AgreedPlans()
    assert plans.of(KEY) is None
    for name in "abc":
        plans.check(KEY, Handshake(name, PLAN))
    with pytest.raises(PlanMismatchError) as caught:
        plans.check(KEY, Handshake("d", OTHER))
    assert str(caught.value) == (
        "Replica d is refused, because it would draw other bytes than the other replicas: processor was large, and is "
        "small; rows was 4, and is None. Give all replicas machines of one kind and equal settings, or set "
        "IMAGEGEN_BATCHING=fast to accept the difference"
    )
    assert plans.of(KEY) == PLAN


def test_a_refusal_is_logged_once_for_each_replica(caplog: pytest.LogCaptureFixture) -> None:
    plans = AgreedPlans()
    plans.check(KEY, Handshake("a", PLAN))
    for name in ("b", "b", "c"):
        with pytest.raises(PlanMismatchError):
            plans.check(KEY, Handshake(name, OTHER))
    assert [message.split()[1] for message in caplog.messages] == ["b", "c"]


def test_replicas_without_a_plan_and_with_fast_batching_are_not_compared() -> None:
    plans = AgreedPlans()
    for plan in (None, replace(PLAN, exact=False), replace(OTHER, exact=False), None):
        plans.check(KEY, Handshake("a", plan))
    with pytest.raises(PlanMismatchError):
        plans.check(KEY, Handshake("b", PLAN))


def test_a_plan_is_forgotten_with_its_last_replica() -> None:
    plans = AgreedPlans()
    plans.check(KEY, Handshake("a", PLAN))
    plans.keep([])
    plans.keep([_host("a", PLAN), _host("b", OTHER)])
    assert plans.of(KEY) == PLAN
    plans.keep([_host("b", OTHER)])
    plans.check(KEY, Handshake("b", OTHER))
    assert plans.of(KEY) == OTHER


def test_only_replicas_with_one_plan_draw(deploy: Callable[..., Any], tmp_path: Path) -> None:
    with deploy(model=f"odd {tmp_path / 'first'}") as deployed:
        tickets = [deployed.submit(seed=seed) for seed in range(12)]
        assert [ticket.result(LIMIT).png for ticket in tickets] == [drawn(seed) for seed in range(12)]
        plan = deployed.models._replicas.plans.of(deployed.mode.key)
        counts = {
            host.cards[deployed.mode.key].numerics.processor: host.engine.finished
            for host in deployed.models.hosts()
            if host.engine and deployed.mode.key in host.cards
        }
        assert all(finished == 0 for processor, finished in counts.items() if processor != plan.processor)


def test_a_refused_replica_is_unhealthy() -> None:
    replica: Any = object.__new__(Replica)
    replica._broken, replica._refused = "", {KEY: "Replica b is refused"}
    with pytest.raises(RuntimeError, match="^Replica b is refused$"):
        asyncio.run(replica.check_health())
