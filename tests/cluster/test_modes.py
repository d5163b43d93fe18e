"""Several models on several replicas: who has which, and who is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from imagegen_core.errors import InvalidRequestError
from imagegen_core.server.models import Host
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


def _held(hosts: tuple[Host, ...]) -> list[str]:
    return sorted("".join(sorted(one.key.model for one in host.residents)) for host in hosts)


def test_a_request_goes_where_its_model_is_and_a_replica_holds_what_memory_takes(four: Deployed) -> None:
    assert [four.submit("b", seed=seed).result(LIMIT).png for seed in range(10)] == [drawn(seed) for seed in range(10)]
    four.until(lambda hosts: _held(hosts) == ["a", "ab"])
    assert [four.submit("c", seed=seed).result(LIMIT).png for seed in range(10)] == [drawn(seed) for seed in range(10)]
    four.until(lambda hosts: _held(hosts) == ["ab", "ac"])
    assert sum(host.loads for host in four.models.hosts()) == 4
    assert four.submit("d", seed=1).result(LIMIT).png == drawn(1)
    four.until(lambda hosts: _held(hosts) in (["ab", "cd"], ["ac", "bd"]))  # what was used longest ago made room


def test_a_model_that_does_not_load_tells_who_asked(four: Deployed) -> None:
    with pytest.raises(RuntimeError, match="^The model of mode nix could not be loaded: Trouble: this model does not"):
        four.submit("nix").result(LIMIT)
    with pytest.raises(RuntimeError, match="^The model of mode nix could not be loaded"):
        four.models.bring(four.modes.find("nix"))
    assert four.submit("a", seed=2).result(LIMIT).png == drawn(2)


def test_what_no_mode_has_any_more_is_let_go_of_everywhere(four: Deployed) -> None:
    four.models.bring(four.modes.find("b"))
    four.until(lambda hosts: _held(hosts) == ["a", "ab"])
    four.models.keep_only({four.mode.key})
    four.until(lambda hosts: _held(hosts) == ["a", "a"])


def test_nobody_lets_go_of_models_by_hand(four: Deployed) -> None:
    with pytest.raises(InvalidRequestError, match="^Mode a cannot be unloaded by hand here"):
        four.models.unload(four.mode)
