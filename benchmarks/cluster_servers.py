"""Servers for the cluster's benchmarks in their own processes, and clients without pauses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import aiohttp
import httpx2 as httpx
import psutil

START_LIMIT = 300.0
DEMO = {"MODEL": "demo", "CUDA_DEVICE": "cpu", "CUDA_DTYPE": "fp32", "OMP_NUM_THREADS": "1"}
"""The variables of a server with the demo model and one thread."""

_REPLICA = "ServeReplica:"


@dataclass(frozen=True)
class Server:
    """A ready `imagegen serve`.

    Attributes:
        url: Its address.
        process: Its process; the children include the Ray processes of a local Ray.
        log: The file of its stderr.
    """

    url: str
    process: psutil.Process
    log: Path

    def health(self) -> dict[str, Any]:
        """Return the response of ``/health``."""
        state: dict[str, Any] = httpx.get(f"{self.url}/health", timeout=60).json()
        return state

    def hosts(self) -> set[str]:
        """Return the names of the replicas with a ready model."""
        return {model["host"] for model in self.health()["models"] if model["state"] == "ready"}

    def seconds(self) -> float:
        """Return the CPU seconds of the process so far."""
        times = self.process.cpu_times()
        return times.user + times.system


@contextlib.contextmanager
def serving(folder: Path, **environ: str) -> Iterator[Server]:
    """Start `imagegen serve`, and wait for all replicas; ``IMAGEGEN_ENGINE=ray`` starts a local Ray by default."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"PORT": str(port), "STORAGE_PROVIDER": "disabled", "QUEUE_MAX": "4096", "RAY_ADDRESS": "local"}
    variables["RAY_TMPDIR"] = str(folder)  # other Ray clusters of this machine use other folders
    log = folder / f"{port}.log"
    with log.open("w") as stderr:
        program = Path(sys.executable).parent / "imagegen"
        process = subprocess.Popen(
            [program, "serve"], env=os.environ | variables | environ, stdout=stderr, stderr=stderr, cwd=folder
        )
    server = Server(f"http://127.0.0.1:{port}", psutil.Process(process.pid), log)
    try:
        _until_ready(server, int(environ.get("IMAGEGEN_REPLICAS", "1")))
        yield server
    finally:
        process.terminate()
        process.wait(120)


def on_ray(replicas: int, cpus: float = 0.1) -> dict[str, str]:
    """Return the variables of a server with a number of replicas."""
    return {
        "IMAGEGEN_ENGINE": "ray",
        "IMAGEGEN_REPLICAS": str(replicas),
        "IMAGEGEN_REPLICA_CPUS": str(cpus),
        "IMAGEGEN_REPLICA_GPUS": "0",
    }


def replicas_of(process: psutil.Process) -> list[psutil.Process]:
    """Return the replicas among the children of a process."""
    replicas = []
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            line = " ".join(child.cmdline())
            if _REPLICA in line and ":Replica" in line:
                replicas.append(child)
    return replicas


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition.

    Raises:
        RuntimeError: The condition is not true after `START_LIMIT` seconds.
    """
    deadline = time.monotonic() + START_LIMIT
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"The condition was not true after {START_LIMIT:.0f} s")
        time.sleep(0.1)


def _until_ready(server: Server, replicas: int) -> None:
    deadline = time.monotonic() + START_LIMIT
    while (
        server.process.is_running() and server.process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline
    ):
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{server.url}/ready", timeout=60).status_code == 200 and len(server.hosts()) == replicas:
                return
        time.sleep(0.2)
    raise RuntimeError(f"The server did not become ready: {server.log.read_text()[-3000:]}")


@dataclass
class Load:
    """The responses to clients without pauses.

    Attributes:
        seconds: The duration of the measurement.
        waited: The latencies in seconds, within this duration.
        statuses: The number of responses of each status, including those before and after it.
    """

    seconds: float
    waited: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def per_second(self) -> float:
        """The pictures a second."""
        return len(self.waited) / self.seconds

    @property
    def p50(self) -> float:
        """The median latency in seconds."""
        return median(self.waited)

    @property
    def p95(self) -> float:
        """The 95th percentile of the latencies in seconds."""
        return quantiles(self.waited, n=20)[-1]


def measure_load(server: Server, clients: int, seconds: float, warm_up: float = 3.0, **fields: Any) -> Load:
    """Send requests from a number of clients without pause, first to warm up, then for the measured seconds."""
    return asyncio.run(_measure_load(server.url, clients, seconds, warm_up, fields))


async def _measure_load(url: str, clients: int, seconds: float, warm_up: float, fields: dict[str, Any]) -> Load:
    load, numbers = Load(seconds), count(1)
    start = time.perf_counter() + warm_up

    async def client(http: aiohttp.ClientSession) -> None:
        while (began := time.perf_counter()) < start + seconds:
            body = {"prompt": "a star", "seed": next(numbers)} | fields
            async with http.post(f"{url}/generate", json=body) as response:
                await response.read()
            load.statuses[response.status] += 1
            ended = time.perf_counter()
            if response.status == 200 and start <= ended < start + seconds:
                load.waited.append(ended - began)

    limits = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(connector=limits, timeout=aiohttp.ClientTimeout(total=600)) as http:
        await asyncio.gather(*(client(http) for _ in range(clients)))
    if set(load.statuses) != {200}:
        raise RuntimeError(f"Some requests failed, by status: {dict(load.statuses)}")
    return load
