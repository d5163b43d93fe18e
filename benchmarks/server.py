"""``imagegen serve`` against a plain server, the cost of HTTP, and how soon it answers.

The plain server is what one writes first: FastAPI, the diffusers pipeline, a lock. Both draw the demo in the same
precision, in processes of their own; they are asked in turn, over and over.
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
def generate(asked: dict):
    with lock:
        picture = pipeline.draw([asked])[0]
    return fastapi.Response(picture, media_type="image/png")

if __name__ == "__main__":
    uvicorn.run(app, port=PORT, log_level="error")
"""
)


@contextlib.contextmanager
def imagegen(folder: Path, port: int) -> Iterator[float]:
    """`imagegen serve` with the demo, ready; the seconds until ``/health`` answered."""
    environ = {"MODEL": "demo", "CUDA_DTYPE": "fp32", "CUDA_DEVICE": "cpu", "PORT": str(port), "QUEUE_MAX": "256"}
    with (folder / "imagegen.log").open("w") as log:
        program = Path(sys.executable).parent / "imagegen"
        began = time.perf_counter()
        process = subprocess.Popen([program, "serve"], env=os.environ | environ, stderr=log)
    try:
        _until(port, "/health", process)
        answered = time.perf_counter() - began
        _until(port, "/ready", process)
        yield answered
    finally:
        process.terminate()
        process.wait(60)


def _until(port: int, path: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"http://127.0.0.1:{port}{path}", timeout=10).status_code == 200:
                return
        time.sleep(0.01)
    raise RuntimeError("the server ended")


async def load(port: int, side: int, clients: int, seconds: float, start: int) -> tuple[float, float, Counter[int]]:
    """Pictures a second, p95 of their latency, and how many answers of each status, of clients that never pause."""
    ends = time.perf_counter() + seconds
    waited: list[float] = []
    statuses: Counter[int] = Counter()
    number = start

    async def client(http: httpx.AsyncClient) -> None:
        nonlocal number
        while time.perf_counter() < ends:
            number += 1
            body = {"prompt": f"a red star, take {number}", "seed": number, "size": f"{side}x{side}"}
            began = time.perf_counter()
            answer = await http.post(f"http://127.0.0.1:{port}/generate", json=body)
            statuses[answer.status_code] += 1
            if answer.status_code == 200:
                waited.append(time.perf_counter() - began)

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(timeout=300, limits=limits) as http:
        began = time.perf_counter()
        await asyncio.gather(*(client(http) for _ in range(clients)))
    return len(waited) / (time.perf_counter() - began), quantiles(waited, n=20)[-1], statuses


def overhead(port: int, side: int, pictures: int) -> list[float]:
    """Milliseconds that a request takes beyond its time in the server's engine, which the server counts."""
    from engine import requests

    more = []
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:

        def in_engine() -> float:
            line = next(one for one in http.get("/metrics").text.splitlines() if "picture_seconds_sum" in one)
            return float(line.split()[1])

        before = in_engine()
        for request in islice(requests(side, 10_000), pictures):
            body = request.model_dump(exclude_unset=True)
            began = time.perf_counter()
            http.post("/generate", json=body).raise_for_status()
            taken = time.perf_counter() - began
            after = in_engine()
            more.append(1000 * (taken - (after - before)))
            before = after
    return more


def starts(folder: Path, rounds: int) -> list[float]:
    """Seconds from the command to the first answer of ``/health``."""
    taken = []
    for _ in range(rounds):
        with imagegen(folder, 8420) as answered:
            taken.append(answered)
    return taken


def main() -> None:
    """Measure and print."""
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
        rows.append(["seconds to the first answer", spread(starts(folder, 5)), "at most 1.5"])
        with serving(PLAIN, folder, 8401, **values) as plain, imagegen(folder, 8402):
            for clients in (16, 64):
                faster, slower, statuses = [], [], Counter[int]()
                for number in range(options.rounds):
                    start = 1000 * (number + 1) * clients
                    theirs, ours = (
                        asyncio.run(load(port, options.side, clients, options.seconds, start)) for port in (plain, 8402)
                    )
                    faster.append(ours[0] / theirs[0])
                    slower.append(ours[1] / theirs[1])
                    statuses += ours[2]
                what = f"{clients} clients, {options.side} px"
                rows.append([f"{what}, pictures a second, ratio", spread(faster), "at least 3"])
                rows.append([f"{what}, p95, ratio", spread(slower), ""])
                rows.append([f"{what}, answers by status", str(dict(statuses)), "200 and 429 alone"])
            more = overhead(8402, options.side, 100)[10:]
            rows.append(["HTTP's cost, ms", spread(more, 1), "at most 5 at the median"])
    show(["what", "figure", "to reach"], rows)


if __name__ == "__main__":
    main()
