"""Loading and unloading of checkpoints."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.engine.faults import Gate
from tests.server.conftest import LIMIT, Running, StartServer


def test_changes_to_the_server_need_an_admin_key(serve: StartServer) -> None:
    server = serve(api_keys="one", admin_keys="root")
    for route in ("unload-checkpoint", "reload-checkpoint", "refresh-checkpoints"):
        responses = [server.http.post(f"/sdapi/v1/{route}", headers={"X-API-Key": key}) for key in ("one", "root")]
        assert [response.status_code for response in responses] == [403, 200]
        assert "admin key" in responses[0].json()["detail"]


def test_busy_model_is_not_unloaded(server: Running) -> None:
    gate = Gate(shut=True)
    server.worker.before["step"] = lambda *_: gate()
    with ThreadPoolExecutor() as threads:
        drawing = threads.submit(server.draw)
        assert gate.reached.wait(LIMIT)
        response = server.http.post("/sdapi/v1/unload-checkpoint")
        gate.open()
        assert drawing.result(LIMIT).status_code == 200
    assert response.status_code == 409
    assert "draws at the moment" in response.json()["detail"]
