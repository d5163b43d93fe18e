"""One client's requests, and what another notices of them."""

from __future__ import annotations

from tests.server.hostile.conftest import PROMPTLY, Attacked


def test_the_watch_sees_a_server_that_is_well(attacked: Attacked) -> None:
    with attacked.watch() as health:
        assert attacked.draw().status_code == 200
    assert 0 < health.worst < PROMPTLY
    assert health.peak > 10**8
