"""Measure the harm of one hostile client: slowest ``/health``, memory, and a second client's pictures.

Each attack has a new ``imagegen serve`` with the demo. Meanwhile, a process polls ``/health`` and the server's memory.
Another client draws pictures, one after another. ``--program`` measures another installation.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx2 as httpx
import psutil
from figures import show, spread
from PIL import Image

PATIENCE = 60.0  # seconds until the attacker disconnects
REFERENCE = {"prompt": "a red star", "seed": 7, "size": "256x256"}
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Attack:
    """One client's attack.

    Attributes:
        name: The name in the table.
        run: Attacks the server at a URL, and returns a short text about the response.
        environ: The server's settings besides the defaults.
    """

    name: str
    run: Callable[[str], str]
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Harm:
    """The effects on the server and on other clients.

    Attributes:
        answer: A short text about the response to the attacker.
        health: The slowest response of ``/health``, in seconds.
        peak: The peak memory above the memory before the attack, in MiB.
        kept: The memory five seconds after the attack above the memory before it, in MiB.
        delay: Seconds of the second client's slowest picture above the median before the attack.
        same: Whether the second client's picture has the same bytes after the attack.
    """

    answer: str
    health: float
    peak: float
    kept: float
    delay: float
    same: bool


def post(url: str, body: object, **options: Any) -> str:
    """Post JSON, and return the status, ``closed``, or ``none`` after a timeout."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **options.pop("headers", {})}
    try:
        response = httpx.post(url, content=content, headers=headers, timeout=PATIENCE, **options)
    except httpx.TimeoutException:
        return "none"
    except httpx.TransportError:
        return "closed"
    return str(response.status_code)


def at_once(count: int, attack: Callable[[], str]) -> str:
    """Run `count` attacks at once, and return a summary of the responses."""
    with ThreadPoolExecutor(count) as pool:
        responses = list(pool.map(lambda _: attack(), range(count)))
    return ", ".join(f"{responses.count(kind)} x {kind}" for kind in sorted(set(responses)))


def bomb() -> str:
    """Return a lossless WebP of 9000x9000 pixels in a few dozen bytes, as base64."""
    buffer = io.BytesIO()
    Image.new("RGB", (9000, 9000)).save(buffer, "WEBP", lossless=True)
    return base64.b64encode(buffer.getvalue()).decode()


def half_requests(url: str) -> str:
    """Open 300 connections, and send half a header on each."""
    host, port = url.removeprefix("http://").split(":")
    opened: list[socket.socket] = []
    for _ in range(300):
        with contextlib.suppress(OSError):
            connection = socket.create_connection((host, int(port)), timeout=5)
            connection.sendall(b"POST /generate HTTP/1.1\r\nHost: localhost\r\nX-Half: ")
            opened.append(connection)
    deadline = time.monotonic() + PATIENCE / 2
    closed = 0
    for connection in opened:
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        with contextlib.suppress(TimeoutError), contextlib.closing(connection):
            try:
                closed += connection.recv(65536) is not None
            except ConnectionError:
                closed += 1
    return f"{closed} of {len(opened)} closed"


def upscalings(url: str) -> str:
    """Request 64 upscalings, disconnect from all, and return the seconds until ``/metrics`` responds."""
    buffer = io.BytesIO()
    Image.effect_noise((1000, 1000), 50).convert("RGB").save(buffer, "PNG")
    picture = buffer.getvalue()

    def hang_up() -> None:
        with contextlib.suppress(httpx.TransportError):
            files = {"file": ("a.png", picture, "image/png")}
            httpx.post(f"{url}/superres", files=files, data={"magnitude": "2"}, timeout=httpx.Timeout(3, connect=20))

    with ThreadPoolExecutor(64) as pool:
        for _ in range(64):
            pool.submit(hang_up)
    began = time.monotonic()
    httpx.get(f"{url}/metrics", timeout=PATIENCE)
    return f"/metrics after {time.monotonic() - began:.1f} s"


def generate(**fields: object) -> Callable[[str], str]:
    """Return an attack with fields of ``/generate``."""
    return lambda url: post(f"{url}/generate", {"prompt": "a star", "size": "64x64", **fields})


def json_without_key(url: str) -> str:
    """Send 31 MB of JSON without a key."""
    return post(f"{url}/generate", b'{"prompt": [' + b"1," * 15_500_000 + b"1]}")


def styles(url: str) -> str:
    """Send 1.5 million styles, each of the wrong type."""
    return post(f"{url}/sdapi/v1/txt2img", b'{"prompt": "a", "styles": [' + b"1," * 1_500_000 + b"1]}")


def bombs(path: str) -> Callable[[str], str]:
    """Return an attack with six bombs at once to a route of A1111's API."""
    image = bomb()
    return lambda url: at_once(6, lambda: post(f"{url}/sdapi/v1/{path}", {"image": image, "upscaling_resize": 2}))


def browser(path: str, body: object, **headers: str) -> Callable[[str], str]:
    """Return an attack with a browser's request from a foreign web page."""
    return lambda url: post(f"{url}{path}", body, headers=headers)


ATTACKS = (
    Attack("a prompt of 32 kB, `:` and `1`", generate(prompt="(a:" + "1" * 16_000 + ":" * 16_000)),
    Attack("`BREAK` 1,500 times", generate(prompt="BREAK " * 1_500)),
    Attack("a word of 100 kB", generate(prompt="a" * 100_000)),
    Attack("a weight of 1e30", generate(prompt="(a star:1e30)", num_inference_steps=1)),
    Attack("guidance 1e30", generate(guidance_scale=1e30, num_inference_steps=1)),
    Attack("six WebPs of 9000x9000 to png-info", bombs("png-info")),
    Attack("six WebPs of 9000x9000 to upscaling", bombs("extra-single-image")),
    Attack("1.5 million styles", styles),
    Attack("31 MB of JSON without a key", json_without_key, {"IMAGEGEN_API_KEYS": "benchmark"}),
    Attack("64 upscalings, and all hang up", upscalings),
    Attack("300 connections with half a header", half_requests),
    Attack("JSON nested 100,000 deep", lambda url: post(f"{url}/generate", b"[" * 100_000)),
    Attack("half an emoji", lambda url: post(f"{url}/generate", b'{"prompt": "\\ud83d"}')),
    Attack("a web page of another origin draws", browser("/generate", REFERENCE, Origin="https://elsewhere.example")),
    Attack("a foreign host name unloads a model", browser("/api/models/unload", {}, Host="elsewhere.example")),
)


def _watch(url: str, pid: int, begun: Any, ending: Any, results: Any) -> None:
    """Poll ``/health`` and a process's memory until `ending` is set; put the worst values of both into a queue."""
    process, worst, peak = psutil.Process(pid), 0.0, 0
    with httpx.Client(base_url=url, timeout=2 * PATIENCE) as http:
        while not ending.is_set():
            began = time.monotonic()
            with contextlib.suppress(httpx.TransportError):
                http.get("/health")
            worst = max(worst, time.monotonic() - began)
            peak = max(peak, process.memory_info().rss)
            begun.set()
            ending.wait(0.02)
    results.put((worst, peak))


@contextlib.contextmanager
def serving(program: Path, environ: Mapping[str, str]) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start a server with the demo, and wait until it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"MODEL": "demo", "CUDA_DTYPE": "fp32", "CUDA_DEVICE": "cpu", "PORT": str(port), **environ}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([program, "serve"], env=os.environ | variables, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{url}/ready", timeout=10).status_code == 200:
                        break
                if process.poll() is not None:
                    log.seek(0)
                    raise RuntimeError(log.read().decode())
                time.sleep(0.05)
            yield url, process
        finally:
            process.kill()
            process.wait()


def measure(attack: Attack, program: Path) -> Harm:
    """Attack a new server once."""
    headers = {"X-API-Key": "benchmark"}

    def draw(url: str) -> tuple[float, bytes]:
        began = time.monotonic()
        response = httpx.post(f"{url}/generate", json=REFERENCE, headers=headers, timeout=4 * PATIENCE)
        return time.monotonic() - began, response.raise_for_status().content

    with serving(program, attack.environ) as (url, process):
        alone = [draw(url) for _ in range(4)][1:]
        memory = psutil.Process(process.pid).memory_info().rss
        stopped, slowest = threading.Event(), [0.0]

        def second_client() -> None:
            while not stopped.is_set():
                slowest.append(draw(url)[0])

        context = multiprocessing.get_context("spawn")
        begun, ending, results = context.Event(), context.Event(), context.Queue()
        watch = context.Process(target=_watch, args=(url, process.pid, begun, ending, results))
        watch.start()
        with ThreadPoolExecutor(1) as pool:
            drawing = pool.submit(second_client)
            begun.wait(PATIENCE)
            answer = attack.run(url)
            stopped.set()
            drawing.result()
        ending.set()
        worst, peak = results.get()
        watch.join()
        time.sleep(5)
        kept = psutil.Process(process.pid).memory_info().rss - memory
        return Harm(
            answer=answer,
            health=worst,
            peak=(peak - memory) / MEBIBYTE,
            kept=kept / MEBIBYTE,
            delay=max(slowest) - median(seconds for seconds, _ in alone),
            same=draw(url)[1] == alone[-1][1],
        )


def main() -> None:
    """Run the measurements and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", type=Path, default=Path(sys.executable).parent / "imagegen")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="run only attacks with this text in their names")
    options = parser.parse_args()
    rows = []
    for attack in ATTACKS:
        if options.only not in attack.name:
            continue
        harms = [measure(attack, options.program) for _ in range(options.rounds)]
        figures = [spread([getattr(harm, name) for harm in harms]) for name in ("health", "delay")]
        memory = [spread([getattr(harm, name) for harm in harms], 0) for name in ("peak", "kept")]
        same = "same" if all(harm.same for harm in harms) else "changed"
        rows.append([attack.name, harms[-1].answer, *figures, *memory, same])
        print(rows[-1], file=sys.stderr, flush=True)
    heading = [
        "attack",
        "answer",
        "worst /health, s",
        "delay of the second client, s",
        "peak memory, MiB",
        "memory after 5 s, MiB",
        "its picture",
    ]
    show(heading, rows)


if __name__ == "__main__":
    main()
