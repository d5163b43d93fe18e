"""One API key's options and unloading have no effect on another key."""

from __future__ import annotations

import httpx2 as httpx

from tests.server.conftest import LIMIT
from tests.server.hostile.conftest import PROMPTLY, StartAttacked

VICTIM = {"X-API-Key": "victim"}
BODY = {"prompt": "a star", "seed": 7, "width": 64, "height": 64, "steps": 2}


def test_one_keys_options_do_not_change_another_keys_pictures(attack: StartAttacked) -> None:
    server = attack(IMAGEGEN_API_KEYS="victim,attacker", IMAGEGEN_ADMIN_KEYS="root")
    hostile = httpx.Client(base_url=server.url, headers={"X-API-Key": "attacker"}, timeout=LIMIT)

    def picture() -> list[str]:
        response = httpx.post(f"{server.url}/sdapi/v1/txt2img", json=BODY, headers=VICTIM, timeout=LIMIT)
        assert response.status_code == 200, response.text
        return list(response.json()["images"])

    def options() -> dict[str, object]:
        return dict(httpx.get(f"{server.url}/sdapi/v1/options", headers=VICTIM).json())

    first_picture, first_options = picture(), options()
    with hostile, server.watch() as health:
        assert hostile.post("/sdapi/v1/options", json={"CLIP_stop_at_last_layers": 2}).status_code == 200
        for value in ([], 7, None, "", {"a": []}, "x" * 100_000):
            response = hostile.post("/sdapi/v1/options", json={"sd_model_checkpoint": value})
            assert (response.status_code, len(response.content) < 1000) == (422, True)
        for route in ("unload-checkpoint", "reload-checkpoint", "refresh-checkpoints"):
            assert hostile.post(f"/sdapi/v1/{route}").status_code == 403
        assert hostile.post("/sdapi/v1/interrupt").status_code == 200
        assert picture() == first_picture
        assert options() == first_options
        assert hostile.post("/sdapi/v1/txt2img", json=BODY).json()["images"] != first_picture
    assert health.worst < PROMPTLY
