"""Several models on several replicas: where they are loaded, and where requests go."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from imagegen_core import GenerateRequest
from imagegen_core.errors import InvalidRequestError
from imagegen_core.hosting.model_host import HostReport
from tests.cluster.conftest import LIMIT, Deployed, pytestmark
from tests.cluster.scripted import SIZE
from tests.cluster.test_drawing import drawn

__all__ = ["pytestmark"]

MODES = {name: {"model": name, "backend": "scripted"} for name in ("a", "b", "c", "d")} | {
    "nix": {"model": "broken", "backend": "scripted"}
}


@pytest.fixture
def deployed(deploy: Callable[..., Any]) -> Iterator[Deployed]:
    """Two replicas with room for two models each; both start with `a`."""
    with deploy(modes=MODES, memory_budget=2 * SIZE + SIZE // 2) as deployed:
        yield deployed


def _held(hosts: tuple[HostReport, ...]) -> list[str]:
    return sorted("".join(sorted(entry.key.model for entry in host.entries)) for host in hosts)


def _loads(deployed: Deployed) -> int:
    """Ask the replicas, and return the number of models loaded so far."""
    replicas = deployed.models._replicas
    replicas.start(replicas.ask()).result(LIMIT)
    return sum(host.loads for host in replicas.hosts)


def test_requests_reach_their_models_within_the_replicas_memory_budgets(deployed: Deployed) -> None:
    deadline, before, loads = time.monotonic() + LIMIT, -1, _loads(deployed)
    while loads != before:  # until forty requests load nothing, which cannot be chance
        assert time.monotonic() < deadline
        for seed in range(40):
            assert deployed.submit(random.choice("abcd"), seed=seed).result(LIMIT).png == drawn(seed)
        before, loads = loads, _loads(deployed)
    held = _held(deployed.until(lambda hosts: all(len(host.entries) == 2 for host in hosts)))
    assert sorted("".join(held)) == ["a", "b", "c", "d"]


def test_a_model_that_does_not_load_gives_the_reason(deployed: Deployed) -> None:
    with pytest.raises(RuntimeError, match="^The model of mode nix could not be loaded: Trouble: this model does not"):
        deployed.submit("nix").result(LIMIT)
    with pytest.raises(RuntimeError, match="^The model of mode nix could not be loaded"):
        deployed.models.load(deployed.modes.find("nix"))
    assert deployed.submit("a", seed=2).result(LIMIT).png == drawn(2)


def test_models_of_no_mode_are_unloaded_on_all_replicas(deployed: Deployed) -> None:
    deployed.models.load(deployed.modes.find("b"))
    deployed.until(lambda hosts: _held(hosts) == ["a", "ab"])
    deployed.models.keep_only({deployed.mode.key})
    deployed.until(lambda hosts: _held(hosts) == ["a", "a"])


def test_models_cannot_be_unloaded_by_hand(deployed: Deployed) -> None:
    with pytest.raises(InvalidRequestError, match="^Mode a cannot be unloaded by hand here"):
        deployed.models.unload(deployed.mode)


def test_a_refiner_is_refused(deployed: Deployed) -> None:
    request = GenerateRequest(prompt="a lake", refiner="b", switch_at=0.5)
    with pytest.raises(InvalidRequestError, match="a refiner needs both models in one process; leave it out") as caught:
        deployed.models.submit(deployed.mode, request, None, refiner=deployed.modes.find("b"))
    assert caught.value.field == "refiner"
