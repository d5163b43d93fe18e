"""One API key's options and unloading, and what another key notices of them."""

from __future__ import annotations

import httpx2 as httpx

from tests.server.conftest import LIMIT
from tests.server.hostile.conftest import PROMPTLY, StartAttacked

VICTIM = {"X-API-Key": "victim"}
BODY = {"prompt": "a star", "seed": 7, "width": 64, "height": 64, "steps": 2}


def test_what_one_key_sets_changes_nothing_for_another(attack: StartAttacked) -> None:
    server = attack(IMAGEGEN_API_KEYS="victim,attacker", IMAGEGEN_ADMIN_KEYS="root")
    hostile = httpx.Client(base_url=server.url, headers={"X-API-Key": "attacker"}, timeout=LIMIT)

    def picture() -> list[str]:
        drawn = httpx.post(f"{server.url}/sdapi/v1/txt2img", json=BODY, headers=VICTIM, timeout=LIMIT)
        assert drawn.status_code == 200, drawn.text
        return list(drawn.json()["images"])

    def options() -> dict[str, object]:
        return dict(httpx.get(f"{server.url}/sdapi/v1/options", headers=VICTIM).json())

    before, told = picture(), options()
    with hostile, server.watch() as health:
        assert hostile.post("/sdapi/v1/options", json={"CLIP_stop_at_last_layers": 2}).status_code == 200
        for value in ([], 7, None, "", {"a": []}, "x" * 100_000):
            answer = hostile.post("/sdapi/v1/options", json={"sd_model_checkpoint": value})
            assert (answer.status_code, len(answer.content) < 1000) == (422, True)
        for route in ("unload-checkpoint", "reload-checkpoint", "refresh-checkpoints"):
            assert hostile.post(f"/sdapi/v1/{route}").status_code == 403
        assert hostile.post("/sdapi/v1/interrupt").status_code == 200
        assert picture() == before
        assert options() == told
        assert hostile.post("/sdapi/v1/txt2img", json=BODY).json()["images"] != before
    assert health.worst < PROMPTLY
