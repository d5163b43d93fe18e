"""Compare ``imagegen serve`` with a plain server, and measure the cost of HTTP and the time to the first response.

The plain server is the obvious first version: FastAPI, the diffusers pipeline and a lock. Both servers draw the demo
in the same precision, each in its own process. The clients use them in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import quantiles

import httpx2 as httpx
from figures import show, spread
from servers import PIPELINE, serving

PLAIN = (
    PIPELINE
    + """
import threading
import fastapi, uvicorn

pipeline = Pipeline()
lock = threading.Lock()
app = fastapi.FastAPI()

@app.post("/generate")
def generate(body: dict):
    with lock:
        picture = pipeline.draw([body])[0]
    return fastapi.Response(picture, media_type="image/png")

if __name__ == "__main__":
    uvicorn.run(app, port=PORT, log_level="error")
"""
)


@contextlib.contextmanager
def imagegen(folder: Path, port: int) -> Iterator[float]:
    """Start `imagegen serve` with the demo; once it is ready, yield the seconds until ``/health`` responded."""
    environ = {"MODEL": "demo", "CUDA_DTYPE": "fp32", "CUDA_DEVICE": "cpu", "PORT": str(port), "QUEUE_MAX": "256"}
    with (folder / "imagegen.log").open("w") as log:
        program = Path(sys.executable).parent / "imagegen"
        began = time.perf_counter()
        process = subprocess.Popen([program, "serve"], env=os.environ | environ, stderr=log)
    try:
        _until(port, "/health", process)
        seconds = time.perf_counter() - began
        _until(port, "/ready", process)
        yield seconds
    finally:
        process.terminate()
        process.wait(60)


def _until(port: int, path: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"http://127.0.0.1:{port}{path}", timeout=10).status_code == 200:
                return
        time.sleep(0.01)
    raise RuntimeError("The server exited")


async def load(port: int, side: int, clients: int, seconds: float, start: int) -> tuple[float, float, Counter[int]]:
    """Return the pictures a second, the p95 of the latency, and the responses by status, of clients without pauses."""
    deadline = time.perf_counter() + seconds
    waited: list[float] = []
    statuses: Counter[int] = Counter()
    number = start

    async def client(http: httpx.AsyncClient) -> None:
        nonlocal number
        while time.perf_counter() < deadline:
            number += 1
            body = {"prompt": f"a red star, take {number}", "seed": number, "size": f"{side}x{side}"}
            began = time.perf_counter()
            response = await http.post(f"http://127.0.0.1:{port}/generate", json=body)
            statuses[response.status_code] += 1
            if response.status_code == 200:
                waited.append(time.perf_counter() - began)

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(timeout=300, limits=limits) as http:
        began = time.perf_counter()
        await asyncio.gather(*(client(http) for _ in range(clients)))
    return len(waited) / (time.perf_counter() - began), quantiles(waited, n=20)[-1], statuses


def overhead(port: int, side: int, pictures: int) -> list[float]:
    """Return the milliseconds of each request beyond its time in the engine, from the server's metrics."""
    from engine import requests

    more = []
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:

        def in_engine() -> float:
            line = next(row for row in http.get("/metrics").text.splitlines() if "picture_seconds_sum" in row)
            return float(line.split()[1])

        before = in_engine()
        for request in islice(requests(side, 10_000), pictures):
            body = request.model_dump(exclude_unset=True)
            began = time.perf_counter()
            http.post("/generate", json=body).raise_for_status()
            seconds = time.perf_counter() - began
            after = in_engine()
            more.append(1000 * (seconds - (after - before)))
            before = after
    return more


def starts(folder: Path, rounds: int) -> list[float]:
    """Return the seconds from the command to the first response of ``/health``."""
    seconds = []
    for _ in range(rounds):
        with imagegen(folder, 8420) as first_response:
            seconds.append(first_response)
    return seconds


def main() -> None:
    """Run the measurements and print the tables."""
    import imagegen_demo

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--side", type=int, default=128)
    options = parser.parse_args()
    values = {"CHECKPOINT": str(Path(imagegen_demo.__file__).parent / "checkpoint"), "SIDE": options.side, "BATCH": 1}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows.append(["from the command to the first response, s", spread(starts(folder, 5)), "at most 1.5"])
        with serving(PLAIN, folder, 8401, **values) as plain, imagegen(folder, 8402):
            for clients in (16, 64):
                throughput_ratios, latency_ratios, statuses = [], [], Counter[int]()
                for number in range(options.rounds):
                    start = 1000 * (number + 1) * clients
                    theirs, ours = (
                        asyncio.run(load(port, options.side, clients, options.seconds, start)) for port in (plain, 8402)
                    )
                    throughput_ratios.append(ours[0] / theirs[0])
                    latency_ratios.append(ours[1] / theirs[1])
                    statuses += ours[2]
                case = f"{clients} clients, {options.side} px"
                rows.append([f"{case}, pictures a second, ratio", spread(throughput_ratios), "at least 3"])
                rows.append([f"{case}, p95, ratio", spread(latency_ratios), ""])
                rows.append([f"{case}, responses by status", str(dict(statuses)), "only 200 and 429"])
            more = overhead(8402, options.side, 100)[10:]
            rows.append(["HTTP's cost, ms", spread(more, 1), "at most 5 at the median"])
    show(["measure", "figure", "target"], rows)


if __name__ == "__main__":
    main()
