"""``imagegen serve`` as a process: its start, its end and its log."""

from __future__ import annotations

import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.server.conftest import LIMIT
from tests.server.processes import serving
from tests.waiting import until


def test_sigterm_ends_the_server_with_status_0(tmp_path: Path, sdxl_checkpoint: Path) -> None:
    with serving(tmp_path, sdxl_checkpoint) as server:
        server.until_ready()
        assert server.http.post("/generate", json={"prompt": "a star"}).status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(LIMIT) == 0
        messages = [record["message"] for record in server.records()]
        assert "Stopping: finishing the open requests" in messages


def test_sigterm_refuses_new_requests_and_finishes_open_ones(tmp_path: Path, sdxl_checkpoint: Path) -> None:
    body = {"prompt": "a star", "size": "512x512", "num_inference_steps": 50, "seed": 7}
    with serving(tmp_path, sdxl_checkpoint) as server, ThreadPoolExecutor(1) as pool:
        server.until_ready()
        server.http.post("/v1/jobs", json=body)
        drawing = pool.submit(server.http.post, "/generate", json=body)
        until(lambda: server.http.get("/health").json()["engine"]["running"] == 2)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.http.get("/ready").json()["status"] == "stopping")
        refused = server.http.post("/generate", json={"prompt": "a star"})
        assert (refused.status_code, refused.json()["type"]) == (503, "not_ready")
        assert drawing.result().status_code == 200
        assert server.process.wait(LIMIT) == 0


def test_sighup_reloads_the_modes(tmp_path: Path, sdxl_checkpoint: Path) -> None:
    (tmp_path / "imagegen.toml").write_text(f'[modes.one]\nmodel = "{sdxl_checkpoint}"\n')
    with serving(tmp_path, sdxl_checkpoint) as server:
        server.until_ready()
        server.process.send_signal(signal.SIGHUP)
        until(
            lambda: "Read the modes again: one" in [record["message"] for record in server.records()],
            message=server.log.read_text,
        )
        assert server.http.post("/generate", json={"prompt": "a star"}).headers["X-Mode"] == "one"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(LIMIT) == 0


def test_unfinished_requests_fail_after_the_shutdown_limit(tmp_path: Path, sdxl_checkpoint: Path) -> None:
    body = {"prompt": "a star", "size": "1024x1024", "num_inference_steps": 50, "seed": 7}
    with serving(tmp_path, sdxl_checkpoint, IMAGEGEN_SHUTDOWN_LIMIT="0.1") as server, ThreadPoolExecutor(1) as pool:
        server.until_ready()
        drawing = pool.submit(server.http.post, "/generate", json=body)
        until(lambda: server.http.get("/health").json()["engine"]["running"])
        server.process.send_signal(signal.SIGTERM)
        response = drawing.result()
        assert (response.status_code, response.json()["type"]) == (503, "not_ready")
        assert "The server stopped before the picture was done" in response.json()["detail"]
        assert server.process.wait(LIMIT) == 0


def test_log_is_json_with_ids_but_without_prompts(tmp_path: Path, sdxl_checkpoint: Path) -> None:
    with serving(tmp_path, sdxl_checkpoint) as server:
        server.until_ready()
        body = {"prompt": "a very private star", "size": "64x64"}
        server.http.post("/generate", json=body, headers={"X-Request-ID": "id-1"})
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(LIMIT)
        (record,) = [record for record in server.records() if record.get("request_id") == "id-1"]
        assert (record["message"], record["status"], record["level"]) == ("POST /generate 200", 200, "INFO")
        assert "private" not in server.log.read_text()


def test_prompts_are_logged_if_configured(tmp_path: Path, sdxl_checkpoint: Path) -> None:
    with serving(tmp_path, sdxl_checkpoint, IMAGEGEN_LOG_PROMPTS="1") as server:
        server.until_ready()
        server.http.post("/generate", json={"prompt": "a public star", "size": "64x64"})
        assert any("a public star" in str(record["message"]) for record in server.records())


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"IMAGEGEN_HOST": "0.0.0.0"}, "Not listening on 0.0.0.0 without API keys"),
        ({"STORAGE_PROVIDER": "nix"}, "Unknown storage 'nix': expected filesystem, memory, redis or disabled"),
        ({"STORAGE_PROVIDER": "filesystem"}, "set STORAGE_URL to a folder"),
        ({"PORT": "x"}, "Invalid PORT 'x'"),
        ({"IMAGEGEN_MAX_CONNECTIONS": "100000000"}, "IMAGEGEN_MAX_CONNECTIONS=100000000 needs 100000128 open files"),
        ({"IMAGEGEN_UPSCALER": "nix"}, "No upscaler 'nix'"),
        ({"CUDA_DEVICE": "cpu,cpu", "NUM_WORKERS": "1"}, "NUM_WORKERS=1 is fewer than the 2 devices of CUDA_DEVICE"),
    ],
)
def test_invalid_setting_is_reported_before_the_server_starts(
    tmp_path: Path, sdxl_checkpoint: Path, environ: dict[str, str], sentence: str
) -> None:
    with serving(tmp_path, sdxl_checkpoint, **environ) as server:
        assert server.process.wait(LIMIT) == 2
        assert sentence in server.log.read_text()
        assert "Traceback" not in server.log.read_text()


def test_occupied_port_is_reported_before_the_model_is_loaded(tmp_path: Path, sdxl_checkpoint: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        with serving(tmp_path, sdxl_checkpoint, PORT=port) as server:
            assert server.process.wait(LIMIT) == 2
            assert f"Cannot listen on 127.0.0.1, port {port} (Address already in use)" in server.log.read_text()
            assert "model is ready" not in server.log.read_text()


@pytest.mark.parametrize("environ", [{"NUM_WORKERS": "2"}, {"CUDA_DEVICE": "cpu,cpu"}], ids=str)
def test_two_workers_draw_the_same_pictures(tmp_path: Path, sdxl_checkpoint: Path, environ: dict[str, str]) -> None:
    body = {"prompt": "a star", "size": "64x64", "seed": 7}
    with serving(tmp_path, sdxl_checkpoint, **environ) as server:
        server.until_ready()
        with ThreadPoolExecutor(8) as pool:
            responses = list(pool.map(lambda _: server.http.post("/generate", json=body), range(16)))
        assert {response.status_code for response in responses} == {200}
        assert len({response.content for response in responses}) == 1
        engine = server.http.get("/health").json()["engine"]
        assert engine["finished"] == 16
        kinds = [group["kind"] for group in engine["groups"]]
        assert len(kinds) == 2 * len(set(kinds))  # both engines report the same kinds
