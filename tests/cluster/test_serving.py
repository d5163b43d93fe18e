"""Servers with replicas: ``imagegen serve --engine ray``, and ``serve deploy`` on a cluster started by hand."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2 as httpx
import pytest
import ray
import torch
from PIL import Image
from ray import serve
from ray.cluster_utils import Cluster

from imagegen_core import GenerateRequest, Job, Settings, load_worker
from imagegen_core.cluster import app
from imagegen_core.cluster.application import NAME
from imagegen_core.cluster.config_file import config_text
from imagegen_core.cluster.ingress import Ingress, check_store
from imagegen_core.errors import SettingsError
from tests.cluster.conftest import LIMIT, pytestmark
from tests.waiting import free_port, until_answered

__all__ = ["pytestmark"]

BIN = Path(sys.executable).parent
SIZE = {"size": "64x64", "num_inference_steps": 3}


@pytest.fixture(scope="module")
def expected_png(sdxl_checkpoint: Path) -> Iterator[bytes]:
    """Draw a picture here with one thread, like a replica; on some CPUs, more threads change the result."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    worker = load_worker(settings=Settings.load(environ={}, model=str(sdxl_checkpoint), device="cpu", dtype="fp32"))
    yield worker.run_job(Job(req=GenerateRequest(prompt="a star", seed=7, **SIZE)))[0]
    torch.set_num_threads(threads)


def until_ready(url: str, process: subprocess.Popen[str], log: Path) -> httpx.Client:
    until_answered(process, log, f"{url}/ready", limit=3 * LIMIT)
    return httpx.Client(base_url=url, timeout=LIMIT)


def draw(http: httpx.Client, timeout: float = LIMIT, **fields: Any) -> httpx.Response:
    return http.post("/generate", json={"prompt": "a star", "seed": 7, **SIZE} | fields, timeout=timeout)


def follow(http: httpx.Client, address: str) -> Iterator[tuple[str, dict[str, Any]]]:
    with http.stream("GET", address) as response:
        name = ""
        for line in response.iter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield name, json.loads(value)


def check_drawing(http: httpx.Client, expected_png: bytes) -> None:
    """Check that a server does everything that a server in a single process does."""
    assert draw(http).content == expected_png
    refused = draw(http, size="12by7")
    assert (refused.status_code, refused.json()["field"]) == (422, "size")
    job = http.post("/v1/jobs", json={"prompt": "a star", "seed": 7, **SIZE}).json()
    events = list(follow(http, job["events"]))
    assert [name for name, _ in events if name != "queued"] == ["started", "step", "step", "step", "done"]
    assert http.get(events[-1][1]["image"]).content == expected_png
    job = http.post("/v1/jobs", json={"prompt": "a star", "size": "512x512", "num_inference_steps": 50}).json()
    assert next(data for name, data in follow(http, job["events"]) if name == "step")["preview"]  # during drawing
    assert http.delete(f"/v1/jobs/{job['id']}").json()["status"] == "cancelled"
    with pytest.raises(httpx.TimeoutException):
        draw(http, size="512x512", num_inference_steps=50, timeout=0.5)
    deadline = time.monotonic() + LIMIT
    while (engine := http.get("/health").json()["engine"])["cancelled"] < 2 or engine["running"]:
        assert time.monotonic() < deadline, engine
    enlarged_drawing = draw(http, superres=True)
    assert (enlarged_drawing.status_code, enlarged_drawing.headers["X-SR-Passes"]) == (200, "1")
    enlarged = http.post("/sdapi/v1/extra-single-image", json={"image": base64.b64encode(expected_png).decode()}).json()
    assert Image.open(io.BytesIO(base64.b64decode(enlarged["image"]))).size == (128, 128)
    unreadable = http.post("/superres", files={"file": ("a.png", b"nonsense")})
    assert (unreadable.status_code, unreadable.json()["type"]) == (422, "invalid_picture")
    assert http.get("/").text.startswith("<!doctype html>")


@contextlib.contextmanager
def serving(tmp_path: Path, cluster: Cluster, **environ: str) -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    port, log = free_port(), tmp_path / "log"
    variables = {
        "RAY_ADDRESS": cluster.address,
        "IMAGEGEN_ENGINE": "ray",
        "STORAGE_PROVIDER": "disabled",
        "CUDA_DTYPE": "fp32",
        "CUDA_DEVICE": "cpu",
        "PORT": str(port),
    }
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [BIN / "imagegen", "serve"], env=os.environ | variables | environ, stderr=stderr, text=True, cwd=tmp_path
        )
    try:
        yield process, port, log
    finally:
        process.kill()
        process.wait()
        serve.delete(NAME)


def test_imagegen_serve_draws_with_replicas(
    cluster: Cluster, tmp_path: Path, sdxl_checkpoint: Path, expected_png: bytes
) -> None:
    with serving(tmp_path, cluster, MODEL=str(sdxl_checkpoint)) as (process, port, log):
        http = until_ready(f"http://127.0.0.1:{port}", process, log)
        check_drawing(http, expected_png)
        health = http.get("/health").json()
        assert [model["state"] for model in health["models"]] == ["ready"]
        assert health["engine"]["finished"] >= 3
        assert http.get("/api/vram").json()["models_loaded"] == 1
        assert "imagegen_hosts 1.0" in http.get("/metrics").text
        second = subprocess.run(
            [BIN / "imagegen", "serve", "--engine", "ray", "--port", "0", "--model", "demo"],
            env=os.environ | {"RAY_ADDRESS": cluster.address, "STORAGE_PROVIDER": "disabled"},
            capture_output=True,
            text=True,
            check=False,
            timeout=2 * LIMIT,
        )
        assert second.returncode == 2
        assert "The Ray cluster already runs an application 'imagegen'" in second.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0
    assert NAME not in serve.status().applications


def test_a_killed_server_can_be_restarted(cluster: Cluster, tmp_path: Path) -> None:
    with serving(tmp_path, cluster, BACKEND="scripted") as (first_server, port, log):
        until_ready(f"http://127.0.0.1:{port}", first_server, log)
        first_server.kill()
        first_server.wait()
        deadline = time.monotonic() + LIMIT
        while any(actor["name"] == "front" for actor in ray.util.list_named_actors(all_namespaces=True)):
            assert time.monotonic() < deadline, "Ray does not notice that the server is gone"
        with serving(tmp_path, cluster, BACKEND="scripted") as (second_server, second_port, second_log):
            http = until_ready(f"http://127.0.0.1:{second_port}", second_server, second_log)
            assert draw(http, size="8x8").status_code == 200
            second_server.send_signal(signal.SIGTERM)
            assert second_server.wait(LIMIT) == 0
    assert NAME not in serve.status().applications


def test_ready_reports_a_missing_model(cluster: Cluster, tmp_path: Path) -> None:
    with serving(tmp_path, cluster, MODEL="/nowhere.safetensors", BACKEND="sdxl") as (process, port, log):
        url = f"http://127.0.0.1:{port}/ready"
        until_answered(process, log, url, lambda response: response.json()["status"] == "failed", limit=3 * LIMIT)
        assert (
            httpx.get(url, timeout=LIMIT)
            .json()["detail"]
            .startswith("No replica can start: The model could not be loaded: No checkpoint '/nowhere")
        )


@dataclass
class Head:
    """A node started by ``ray start``; ``serve deploy`` sends configurations to its dashboard."""

    process: subprocess.Popen[str]
    environ: dict[str, str]
    dashboard: str
    log: Path

    def run(self, program: str, *arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
        environment = self.environ | environ
        command = [BIN / program, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT)

    def deploy(self, config: Path) -> None:
        deadline = time.monotonic() + LIMIT
        while (result := self.run("serve", "deploy", config, "-a", self.dashboard)).returncode:  # until the head is up
            assert time.monotonic() < deadline, result.stderr + self.log.read_text()


@pytest.fixture
def head(tmp_path: Path, plugin_path: str) -> Iterator[Head]:
    names = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port")
    ports = {name: free_port() for name in names}
    environ = os.environ | {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PYTHONPATH": plugin_path,
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    command = [
        BIN / "ray",
        "start",
        "--head",
        "--block",
        "--num-cpus=2",
        *(f"--{name}={ports[name]}" for name in names),
    ]
    log = tmp_path / "head.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=environ, stdout=output, stderr=output, text=True, start_new_session=True
        )
    yield Head(process, environ, f"http://127.0.0.1:{ports['dashboard-port']}", log)
    os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(LIMIT / 4)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_serve_deploy_uses_the_clusters_http_and_updates_without_a_gap(
    head: Head, tmp_path: Path, sdxl_checkpoint: Path, expected_png: bytes
) -> None:
    port, config = free_port(), tmp_path / "serve.yaml"
    settings = {
        "MODEL": str(sdxl_checkpoint),
        "CUDA_DTYPE": "fp32",
        "CUDA_DEVICE": "cpu",
        "STORAGE_PROVIDER": "disabled",
    }
    completed = head.run("imagegen", "cluster", "config", "--port", str(port), "-o", config, **settings)
    assert completed.returncode == 0, completed.stderr
    head.deploy(config)
    http = until_ready(f"http://127.0.0.1:{port}", head.process, head.log)
    check_drawing(http, expected_png)

    body = {"prompt": "a star", "seed": 7, "size": "64x64"}
    before = http.post("/generate", json=body).content
    config.write_text(config.read_text().replace("args:\n", "args:\n    default_steps: 2\n"))
    head.deploy(config)
    deadline = time.monotonic() + 3 * LIMIT
    while True:
        response = http.post("/generate", json=body)
        assert response.status_code == 200, response.text
        if response.content != before:
            break
        assert time.monotonic() < deadline, "the update has no effect"


def test_the_memory_store_is_refused() -> None:
    with pytest.raises(SettingsError, match="^STORAGE_PROVIDER=memory keeps pictures in one process, and a cluster"):
        check_store(Settings.load(environ={}))
    for provider in ("redis", "filesystem", "disabled"):
        check_store(Settings.load(environ={}, storage_provider=provider))


def test_the_configuration_holds_all_settings_except_secrets(tmp_path: Path) -> None:
    import yaml

    (tmp_path / "imagegen.toml").write_text(
        'model = "demo"\nlora_root = "loras"\nstorage_provider = "redis"\nstorage_url = "redis://:secret@host/0"\n'
        'api_keys = ["k"]\nhost = "0.0.0.0"\nreplicas = 2\nmax_replicas = 8\nreplica_gpus = 0.5\n'
        '[modes.one]\nmodel = "demo"\ndefault_steps = 3\n'
        '[[modes.one.loras]]\npath = "ink.safetensors"\nstrength = 0.5\n'
    )
    settings = Settings.load(environ={})
    text = config_text(settings)
    assert "secret" not in text.replace("secrets are not", "")
    assert text.count("# Set IMAGEGEN_") == 2
    config = yaml.safe_load(text)
    (application,) = config["applications"]
    assert Settings.load(environ={}, **application["args"]).modes == settings.modes
    assert application["args"] == {
        "model": "demo",
        "lora_root": "loras",
        "modes": {
            "one": {"model": "demo", "default_steps": 3, "loras": [{"path": "ink.safetensors", "strength": 0.5}]}
        },
        "replica_gpus": 0.5,
        "storage_provider": "redis",
    }
    replica = application["deployments"][1]
    assert (replica["name"], replica["autoscaling_config"]["max_replicas"]) == ("Replica", 8)
    assert config["http_options"] == {"host": "0.0.0.0", "port": 4200}


def test_the_configuration_has_the_absolute_path_of_the_modes_file(tmp_path: Path) -> None:
    (tmp_path / "modes.yaml").write_text("model_root: .\ndefault_mode: one\nmodes:\n  one: {model: demo}\n")
    settings = Settings.load(environ={}, storage_provider="disabled", modes_file=Path("modes.yaml"))
    assert f"modes_file: {tmp_path / 'modes.yaml'}" in config_text(settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": "0.0.0.0"}, r"^Not listening on 0\.0\.0\.0 without API keys"),
        ({"replicas": 3, "max_replicas": 2}, "^max_replicas=2 is less than replicas=3"),
        ({"storage_provider": "memory"}, "^STORAGE_PROVIDER=memory keeps"),
    ],
)
def test_an_unusable_configuration_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        config_text(Settings.load(environ={}, **{"storage_provider": "disabled"} | options))


def test_a_second_ingress_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "get_replica_context", lambda: SimpleNamespace(world_size=2))
    with pytest.raises(SettingsError, match="^The deployment Ingress takes num_replicas: 1, because it holds the jobs"):
        asyncio.run(Ingress.__init__(SimpleNamespace(), Settings.load(environ={}), None))  # type: ignore[arg-type]


def test_the_application_refuses_unknown_settings() -> None:
    with pytest.raises(SettingsError, match="^Unknown setting modle: expected one of"):
        app({"modle": "demo"})


def test_a_missing_cluster_is_reported_at_once(tmp_path: Path) -> None:
    environ = {"RAY_ADDRESS": f"127.0.0.1:{free_port()}", "STORAGE_PROVIDER": "disabled", "MODEL": "demo"}
    command = [BIN / "imagegen", "serve", "--engine", "ray"]
    completed = subprocess.run(
        command, env=os.environ | environ, capture_output=True, text=True, check=False, timeout=LIMIT, cwd=tmp_path
    )
    assert completed.returncode == 2
    assert completed.stderr.startswith(f"Error: No Ray cluster at RAY_ADDRESS={environ['RAY_ADDRESS']} ([Errno 111]")
