"""The health watch of the hostile tests works."""

from __future__ import annotations

from tests.server.hostile.conftest import PROMPTLY, Attacked


def test_the_watch_measures_a_healthy_server(attacked: Attacked) -> None:
    with attacked.watch() as health:
        assert attacked.draw().status_code == 200
    assert 0 < health.worst < PROMPTLY
    assert health.peak > 10**8
