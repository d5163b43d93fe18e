"""Posting, following, fetching and cancelling jobs."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.engine.faults import Gate
from tests.server.conftest import LIMIT, HeldLanczos, Running, StartServer


def _post(server: Running, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    body = {"prompt": "a star", "size": "64x64", "seed": 7, **fields}
    return server.http.post("/v1/jobs", json=body, headers=headers)


def _wait_for(server: Running, job: dict[str, Any]) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        current: dict[str, Any] = server.http.get(f"/v1/jobs/{job['id']}").json()
        return current if current["status"] not in ("waiting", "drawing") else None

    finished: dict[str, Any] = server.until(ended)
    return finished


def _events(
    server: Running, job: dict[str, Any], on_event: Callable[[str], None] = lambda name: None, **headers: str
) -> list[tuple[str, str, dict[str, Any]]]:
    """Return each event's id, name and data; call `on_event` with each name on arrival."""
    events, event = [], {}
    with server.http.stream("GET", job["events"], headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            name, _, value = line.partition(": ")
            if line:
                event[name] = value
            elif "event" in event:
                events.append((event["id"], event["event"], json.loads(event["data"])))
                on_event(event["event"])
                event = {}
    return events


def test_a_job_is_posted_and_its_picture_fetched(server: Running) -> None:
    posted = _post(server)
    assert posted.status_code == 202
    job = posted.json()
    assert posted.headers["Location"] == f"/v1/jobs/{job['id']}"
    finished_job = _wait_for(server, job)
    assert (finished_job["status"], finished_job["seed"]) == ("done", 7)
    response = server.http.get(finished_job["image"])
    assert response.content == server.draw().content
    assert response.headers["X-Seed"] == "7"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_inference_steps": 51}, "Invalid num_inference_steps 51: the LCM scheduler takes 1 to 50"),
        ({"num_inference_steps": 1000, "scheduler": "DDIM"}, "the DDIM scheduler takes 1 to 999"),
        ({"num_inference_steps": 1001, "scheduler": "Euler"}, "the Euler scheduler takes 1 to 1000"),
        ({"num_inference_steps": 1001, "scheduler": "checkpoint"}, "the EulerDiscreteScheduler scheduler takes 1 to"),
        ({"scheduler": "nix"}, "Unknown scheduler 'nix'"),
        ({"scheduler": "Euler", "schedule": "nix"}, "Unknown schedule 'nix'"),
    ],
)
def test_invalid_sampling_is_refused_when_the_job_is_posted(
    serve: StartServer, fields: dict[str, Any], words: str
) -> None:
    response = _post(serve(max_steps=2000), **fields)
    assert response.status_code == 422
    assert words in response.json()["detail"]


def test_job_reports_its_events_in_order(server: Running) -> None:
    gate = Gate(shut=True)
    server.worker.before["step"] = lambda *_: gate()
    job = _post(server, num_inference_steps=3).json()
    events = _events(server, job, on_event=lambda _: gate.open())
    names = [name for _, name, _ in events]
    assert names == ["queued", "started", "step", "step", "step", "done"]
    assert [data["step"] for _, name, data in events if name == "step"] == [1, 2, 3]
    assert next(data["preview"] for _, name, data in events if name == "step")
    assert events[0][2] == {"place": 1}
    assert events[-1][2]["image"] == f"/v1/jobs/{job['id']}/image"


def test_last_event_id_resumes_the_events(server: Running) -> None:
    job = _post(server).json()
    _wait_for(server, job)
    events = _events(server, job)
    assert _events(server, job, **{"Last-Event-ID": events[2][0]}) == events[3:]


def test_job_enlarges_its_picture_on_request(server: Running) -> None:
    job = _wait_for(server, _post(server, superres=True).json())
    assert server.http.get(job["image"]).headers["X-SuperRes"] == "1"


def test_a_job_is_cancelled_within_a_step(server: Running) -> None:
    gate = Gate(shut=True)
    server.worker.before["step"] = lambda *_: gate()
    job = _post(server, num_inference_steps=40).json()
    assert gate.reached.wait(LIMIT)
    assert server.http.delete(f"/v1/jobs/{job['id']}").json()["status"] == "cancelled"
    gate.open()
    server.until(lambda: server.report().running == 0)
    assert sum(server.report().steps.values()) <= 1
    assert _events(server, job)[-1][1] == "cancelled"
    assert server.http.get(f"/v1/jobs/{job['id']}/image").status_code == 409


def test_cancelling_a_finished_job_changes_nothing(server: Running) -> None:
    job = _post(server).json()
    _wait_for(server, job)
    assert server.http.delete(f"/v1/jobs/{job['id']}").json()["status"] == "done"
    assert server.http.get(f"/v1/jobs/{job['id']}/image").status_code == 200


def test_unfinished_picture_is_a_409(server: Running) -> None:
    gate = Gate(shut=True)
    server.worker.before["step"] = lambda *_: gate()
    job = _post(server).json()
    assert gate.reached.wait(LIMIT)
    assert server.http.get(f"/v1/jobs/{job['id']}").json()["status"] == "drawing"
    response = server.http.get(f"/v1/jobs/{job['id']}/image")
    assert (response.status_code, response.json()["type"]) == (409, "conflict")
    gate.open()


def test_failed_job_reports_the_reason(server: Running) -> None:
    job = _post(server, clip_skip=99).json()
    failed_job = _wait_for(server, job)
    assert (failed_job["status"], failed_job["error"]["field"]) == ("failed", "clip_skip")
    assert _events(server, job)[-1][1] == "failed"
    assert server.http.get(f"/v1/jobs/{job['id']}/image").status_code == 422


def test_unknown_job_is_a_404(server: Running) -> None:
    for method, path in (("GET", ""), ("GET", "/image"), ("GET", "/events"), ("DELETE", "")):
        assert server.http.request(method, f"/v1/jobs/nix{path}").status_code == 404


def test_same_idempotency_key_returns_the_same_job(server: Running) -> None:
    key = {"Idempotency-Key": "once"}
    first, repeated, other = _post(server, key), _post(server, key), _post(server, {"Idempotency-Key": "twice"})
    assert first.json()["id"] == repeated.json()["id"] != other.json()["id"]
    _wait_for(server, first.json())
    assert _post(server, key).json()["id"] == first.json()["id"]
    response = _post(server, key, seed=8)
    assert (response.status_code, response.json()["type"]) == (409, "conflict")


def test_number_of_finished_jobs_is_limited(serve: StartServer) -> None:
    server = serve(storage_max_items=2)
    jobs = [_post(server).json() for _ in range(3)]
    for job in jobs[1:]:
        _wait_for(server, job)
    server.until(lambda: server.http.get(f"/v1/jobs/{jobs[0]['id']}").status_code == 404)


def test_finished_job_keeps_no_previews(server: Running) -> None:
    job = _post(server, num_inference_steps=3).json()
    _wait_for(server, job)
    assert [data["preview"] for _, name, data in _events(server, job) if name == "step"] == [None] * 3


def test_total_bytes_of_finished_jobs_are_limited(serve: StartServer) -> None:
    server = serve(storage_max_bytes=2**20, storage_provider="disabled")
    large = server.draw(size="64x64", superres=True, superres_magnitude=3).content
    jobs = []
    for _ in range(2**20 // len(large) + 2):
        jobs.append(_post(server, superres=True, superres_magnitude=3).json())
        _wait_for(server, jobs[-1])
    statuses = [server.http.get(f"/v1/jobs/{job['id']}").status_code for job in jobs]
    assert (statuses[0], statuses[-1]) == (404, 200)


def test_idempotency_key_of_a_dropped_job_starts_a_new_job(serve: StartServer) -> None:
    server = serve(storage_max_items=1)
    key = {"Idempotency-Key": "once"}
    first = _post(server, key).json()
    _wait_for(server, first)
    _wait_for(server, _post(server, seed=8).json())
    server.until(lambda: server.http.get(f"/v1/jobs/{first['id']}").status_code == 404)
    new = _post(server, key)
    assert new.status_code == 202
    assert new.json()["id"] != first["id"]
    assert _wait_for(server, new.json())["status"] == "done"


def test_idempotency_key_finds_a_failed_job(server: Running) -> None:
    key = {"Idempotency-Key": "once"}
    first = _post(server, key, clip_skip=99).json()
    assert _wait_for(server, first)["status"] == "failed"
    assert _post(server, key, clip_skip=99).json() == server.http.get(f"/v1/jobs/{first['id']}").json()


def test_asyncio_does_not_report_an_unfetched_failed_job(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    job = _post(server, clip_skip=99).json()
    _wait_for(server, job)
    context = server.app.state.context
    context.jobs._ended.clear()
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_job_is_cancelled_during_its_enlargement(serve: StartServer, held_lanczos: HeldLanczos) -> None:
    server = serve(upscaler="lanczos")
    job = _post(server, superres=True, superres_magnitude=3).json()
    assert held_lanczos.gate.reached.wait(LIMIT)
    assert server.http.delete(f"/v1/jobs/{job['id']}").json()["status"] == "cancelled"
    assert _events(server, job)[-1][1] == "cancelled"
    held_lanczos.let_go()
    assert held_lanczos.passes == 1
