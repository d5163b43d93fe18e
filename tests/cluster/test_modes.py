"""Several models on several replicas: who has which, and who is asked."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

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
def four(deploy: Callable[..., Any]) -> Iterator[Deployed]:
    """Two replicas, each with room for two models; both begin with `a`."""
    with deploy(modes=MODES, memory_budget=2 * SIZE + SIZE // 2) as deployed:
        yield deployed


def _held(hosts: tuple[HostReport, ...]) -> list[str]:
    return sorted("".join(sorted(one.key.model for one in host.entries)) for host in hosts)


def _loads(deployed: Deployed) -> int:
    """How many models the replicas loaded so far, as of now."""
    replicas = deployed.models._replicas
    replicas.start(replicas.ask()).result(LIMIT)
    return sum(host.loads for host in replicas.hosts)


def test_a_request_goes_where_its_model_is_and_a_replica_holds_what_memory_takes(four: Deployed) -> None:
    ends, before, loads = time.monotonic() + LIMIT, -1, _loads(four)
    while loads != before:  # until forty requests load nothing, which no chance would bring about
        assert time.monotonic() < ends
        for seed in range(40):
            assert four.submit(random.choice("abcd"), seed=seed).result(LIMIT).png == drawn(seed)
        before, loads = loads, _loads(four)
    held = _held(four.until(lambda hosts: all(len(host.entries) == 2 for host in hosts)))
    assert sorted("".join(held)) == ["a", "b", "c", "d"]


def test_a_model_that_does_not_load_tells_who_asked(four: Deployed) -> None:
    with pytest.raises(RuntimeError, match="^The model of mode nix could not be loaded: Trouble: this model does not"):
        four.submit("nix").result(LIMIT)
    with pytest.raises(RuntimeError, match="^The model of mode nix could not be loaded"):
        four.models.load(four.modes.find("nix"))
    assert four.submit("a", seed=2).result(LIMIT).png == drawn(2)


def test_what_no_mode_has_any_more_is_let_go_of_everywhere(four: Deployed) -> None:
    four.models.load(four.modes.find("b"))
    four.until(lambda hosts: _held(hosts) == ["a", "ab"])
    four.models.keep_only({four.mode.key})
    four.until(lambda hosts: _held(hosts) == ["a", "a"])


def test_nobody_lets_go_of_models_by_hand(four: Deployed) -> None:
    with pytest.raises(InvalidRequestError, match="^Mode a cannot be unloaded by hand here"):
        four.models.unload(four.mode)
