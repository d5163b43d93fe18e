"""Jobs that are posted, followed, fetched and cancelled."""

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


def _done(server: Running, job: dict[str, Any]) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        told: dict[str, Any] = server.http.get(f"/v1/jobs/{job['id']}").json()
        return told if told["status"] not in ("waiting", "drawing") else None

    found: dict[str, Any] = server.until(ended)
    return found


def _events(
    server: Running, job: dict[str, Any], hear: Callable[[str], None] = lambda name: None, **headers: str
) -> list[tuple[str, str, dict[str, Any]]]:
    """Each event's id, name and data; `hear` is told of each name as it comes."""
    found, event = [], {}
    with server.http.stream("GET", job["events"], headers=headers) as lines:
        assert lines.headers["content-type"].startswith("text/event-stream")
        for line in lines.iter_lines():
            name, _, value = line.partition(": ")
            if line:
                event[name] = value
            elif "event" in event:
                found.append((event["id"], event["event"], json.loads(event["data"])))
                hear(event["event"])
                event = {}
    return found


def test_a_job_is_posted_and_its_picture_fetched(server: Running) -> None:
    posted = _post(server)
    assert posted.status_code == 202
    job = posted.json()
    assert posted.headers["Location"] == f"/v1/jobs/{job['id']}"
    told = _done(server, job)
    assert (told["status"], told["seed"]) == ("done", 7)
    answer = server.http.get(told["image"])
    assert answer.content == server.draw().content
    assert answer.headers["X-Seed"] == "7"


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
def test_too_many_steps_are_told_when_the_job_is_posted(serve: StartServer, fields: dict[str, Any], words: str) -> None:
    answer = _post(serve(max_steps=2000), **fields)
    assert answer.status_code == 422
    assert words in answer.json()["detail"]


def test_a_job_tells_all_that_happens_to_it(server: Running) -> None:
    gate = Gate(shut=True)
    server.worker.before["step"] = lambda *_: gate()
    job = _post(server, num_inference_steps=3).json()
    events = _events(server, job, hear=lambda _: gate.open())
    names = [name for _, name, _ in events]
    assert names == ["queued", "started", "step", "step", "step", "done"]
    assert [data["step"] for _, name, data in events if name == "step"] == [1, 2, 3]
    assert next(data["preview"] for _, name, data in events if name == "step")
    assert events[0][2] == {"place": 1}
    assert events[-1][2]["image"] == f"/v1/jobs/{job['id']}/image"


def test_events_go_on_after_the_last_one_seen(server: Running) -> None:
    job = _post(server).json()
    _done(server, job)
    events = _events(server, job)
    assert _events(server, job, **{"Last-Event-ID": events[2][0]}) == events[3:]


def test_a_job_is_enlarged_where_that_is_asked_for(server: Running) -> None:
    told = _done(server, _post(server, superres=True).json())
    assert server.http.get(told["image"]).headers["X-SuperRes"] == "1"


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


def test_cancelling_what_is_done_changes_nothing(server: Running) -> None:
    job = _post(server).json()
    _done(server, job)
    assert server.http.delete(f"/v1/jobs/{job['id']}").json()["status"] == "done"
    assert server.http.get(f"/v1/jobs/{job['id']}/image").status_code == 200


def test_a_picture_that_is_not_done_yet_is_a_409(server: Running) -> None:
    gate = Gate(shut=True)
    server.worker.before["step"] = lambda *_: gate()
    job = _post(server).json()
    assert gate.reached.wait(LIMIT)
    assert server.http.get(f"/v1/jobs/{job['id']}").json()["status"] == "drawing"
    answer = server.http.get(f"/v1/jobs/{job['id']}/image")
    assert (answer.status_code, answer.json()["type"]) == (409, "conflict")
    gate.open()


def test_a_job_that_fails_says_why(server: Running) -> None:
    job = _post(server, clip_skip=99).json()
    told = _done(server, job)
    assert (told["status"], told["error"]["field"]) == ("failed", "clip_skip")
    assert _events(server, job)[-1][1] == "failed"
    assert server.http.get(f"/v1/jobs/{job['id']}/image").status_code == 422


def test_a_job_that_is_not_there_is_a_404(server: Running) -> None:
    for method, path in (("GET", ""), ("GET", "/image"), ("GET", "/events"), ("DELETE", "")):
        assert server.http.request(method, f"/v1/jobs/nix{path}").status_code == 404


def test_the_same_idempotency_key_is_the_same_job(server: Running) -> None:
    key = {"Idempotency-Key": "once"}
    first, again, other = _post(server, key), _post(server, key), _post(server, {"Idempotency-Key": "twice"})
    assert first.json()["id"] == again.json()["id"] != other.json()["id"]
    _done(server, first.json())
    assert _post(server, key).json()["id"] == first.json()["id"]
    answer = _post(server, key, seed=8)
    assert (answer.status_code, answer.json()["type"]) == (409, "conflict")


def test_jobs_that_are_done_are_kept_up_to_a_number(serve: StartServer) -> None:
    server = serve(storage_max_items=2)
    jobs = [_post(server).json() for _ in range(3)]
    for job in jobs[1:]:
        _done(server, job)
    server.until(lambda: server.http.get(f"/v1/jobs/{jobs[0]['id']}").status_code == 404)


def test_a_job_that_has_ended_keeps_no_previews(server: Running) -> None:
    job = _post(server, num_inference_steps=3).json()
    _done(server, job)
    assert [data["preview"] for _, name, data in _events(server, job) if name == "step"] == [None] * 3


def test_jobs_that_are_done_are_kept_up_to_their_bytes(serve: StartServer) -> None:
    server = serve(storage_max_bytes=2**20, storage_provider="disabled")
    large = server.draw(size="64x64", superres=True, superres_magnitude=3).content
    jobs = []
    for _ in range(2**20 // len(large) + 2):
        jobs.append(_post(server, superres=True, superres_magnitude=3).json())
        _done(server, jobs[-1])
    kept = [server.http.get(f"/v1/jobs/{job['id']}").status_code for job in jobs]
    assert (kept[0], kept[-1]) == (404, 200)


def test_an_idempotency_key_whose_job_is_gone_makes_a_new_job(serve: StartServer) -> None:
    server = serve(storage_max_items=1)
    key = {"Idempotency-Key": "once"}
    first = _post(server, key).json()
    _done(server, first)
    _done(server, _post(server, seed=8).json())
    server.until(lambda: server.http.get(f"/v1/jobs/{first['id']}").status_code == 404)
    again = _post(server, key)
    assert again.status_code == 202
    assert again.json()["id"] != first["id"]
    assert _done(server, again.json())["status"] == "done"


def test_an_idempotency_key_finds_a_job_that_failed(server: Running) -> None:
    key = {"Idempotency-Key": "once"}
    first = _post(server, key, clip_skip=99).json()
    assert _done(server, first)["status"] == "failed"
    assert _post(server, key, clip_skip=99).json() == server.http.get(f"/v1/jobs/{first['id']}").json()


def test_a_job_that_failed_and_that_nobody_asked_for_is_not_reported_by_asyncio(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    job = _post(server, clip_skip=99).json()
    _done(server, job)
    context = server.app.state.context
    context.jobs._ended.clear()
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_a_job_is_cancelled_while_it_is_enlarged(serve: StartServer, held_lanczos: HeldLanczos) -> None:
    server = serve(upscaler="lanczos")
    job = _post(server, superres=True, superres_magnitude=3).json()
    assert held_lanczos.gate.reached.wait(LIMIT)
    assert server.http.delete(f"/v1/jobs/{job['id']}").json()["status"] == "cancelled"
    assert _events(server, job)[-1][1] == "cancelled"
    held_lanczos.let_go()
    assert held_lanczos.passes == 1
