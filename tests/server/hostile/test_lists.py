"""Long lists of wrong items: a naive server would check and report each item."""

from __future__ import annotations

import pytest

from tests.server.hostile.conftest import PROMPTLY, Attacked

MANY = 1_500_000  # items, 3 MB of JSON
SMALL = 200 * 2**20  # bytes


@pytest.mark.parametrize("item", ["1", "null", '""'])
def test_a_long_list_of_styles_is_refused_at_once(attacked: Attacked, item: str) -> None:
    body = f'{{"prompt": "a star", "styles": [{",".join([item] * MANY)}]}}'
    before = attacked.memory
    with attacked.watch() as health:
        response = attacked.http.post(
            "/sdapi/v1/txt2img", content=body.encode(), headers={"Content-Type": "application/json"}
        )
        assert attacked.draw().status_code == 200
    assert response.status_code in (413, 422)
    assert len(response.content) < 1000
    assert health.worst < PROMPTLY
    assert health.peak - before < SMALL
