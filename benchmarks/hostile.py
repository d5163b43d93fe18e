"""What one hostile client does to a server's other clients: the worst ``/health``, memory, a second client's picture.

Each attack meets a fresh ``imagegen serve`` of the demo. Meanwhile one process polls ``/health`` and the server's
memory, and another client draws pictures, one after the other. ``--program`` measures another installation.
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

PATIENCE = 60.0  # seconds until the attacker hangs up
REFERENCE = {"prompt": "a red star", "seed": 7, "size": "256x256"}
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Attack:
    """One client's attack.

    Attributes:
        name: What the table calls it.
        run: Attacks the server at a URL, and returns the answer in a few words.
        environ: The server's settings, where they are not the default.
    """

    name: str
    run: Callable[[str], str]
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Harm:
    """What the others noticed.

    Attributes:
        answer: What the attacker was answered.
        health: The worst answer of ``/health``, in seconds.
        peak: Memory above that before the attack, at most, in MiB.
        kept: Memory above that before the attack, five seconds after it, in MiB.
        delay: A second client's slowest picture against its median before the attack, in seconds.
        same: Whether that client's picture has the same bytes after the attack.
    """

    answer: str
    health: float
    peak: float
    kept: float
    delay: float
    same: bool


def post(url: str, body: object, **options: Any) -> str:
    """Post JSON, and tell the status or that the attacker gave up."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **options.pop("headers", {})}
    try:
        answer = httpx.post(url, content=content, headers=headers, timeout=PATIENCE, **options)
    except httpx.TimeoutException:
        return "none"
    except httpx.TransportError:
        return "closed"
    return str(answer.status_code)


def many(count: int, one: Callable[[], str]) -> str:
    """The answers of `count` attacks at once."""
    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(lambda _: one(), range(count)))
    return ", ".join(f"{answers.count(kind)} x {kind}" for kind in sorted(set(answers)))


def bomb() -> str:
    """A lossless WebP of 9000 x 9000 pixels in some dozens of bytes, as base64."""
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
    ends = time.monotonic() + PATIENCE / 2
    closed = 0
    for connection in opened:
        connection.settimeout(max(0.01, ends - time.monotonic()))
        with contextlib.suppress(TimeoutError), contextlib.closing(connection):
            try:
                closed += connection.recv(65536) is not None
            except ConnectionError:
                closed += 1
    return f"{closed} of {len(opened)} closed"


def upscalings(url: str) -> str:
    """Ask for 64 upscalings, and hang up on all of them at once; the time until ``/metrics`` answers."""
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
    """An attack by the fields of ``/generate``."""
    return lambda url: post(f"{url}/generate", {"prompt": "a star", "size": "64x64", **fields})


def keyless(url: str) -> str:
    """Send 31 MB of JSON without a key."""
    return post(f"{url}/generate", b'{"prompt": [' + b"1," * 15_500_000 + b"1]}")


def styles(url: str) -> str:
    """Send 1.5 million styles, each of the wrong type."""
    return post(f"{url}/sdapi/v1/txt2img", b'{"prompt": "a", "styles": [' + b"1," * 1_500_000 + b"1]}")


def bombs(path: str) -> Callable[[str], str]:
    """Send six bombs at once to a route of A1111's."""
    image = bomb()
    return lambda url: many(6, lambda: post(f"{url}/sdapi/v1/{path}", {"image": image, "upscaling_resize": 2}))


def elsewhere(path: str, body: object, **headers: str) -> Callable[[str], str]:
    """Do what a web page of another origin has a browser do."""
    return lambda url: post(f"{url}{path}", body, headers=headers)


ATTACKS = (
    Attack("prompt of 32 kB, `:` and `1`", generate(prompt="(a:" + "1" * 16_000 + ":" * 16_000)),
    Attack("`BREAK` 1,500 times", generate(prompt="BREAK " * 1_500)),
    Attack("a word of 100 kB", generate(prompt="a" * 100_000)),
    Attack("a weight of 1e30", generate(prompt="(a star:1e30)", num_inference_steps=1)),
    Attack("guidance 1e30", generate(guidance_scale=1e30, num_inference_steps=1)),
    Attack("WebP of 9000x9000, six times, to png-info", bombs("png-info")),
    Attack("WebP of 9000x9000, six times, to be enlarged", bombs("extra-single-image")),
    Attack("1.5 million styles", styles),
    Attack("31 MB of JSON without a key", keyless, {"IMAGEGEN_API_KEYS": "benchmark"}),
    Attack("64 upscalings, and all hang up", upscalings),
    Attack("300 connections with half a header", half_requests),
    Attack("JSON nested 100,000 deep", lambda url: post(f"{url}/generate", b"[" * 100_000)),
    Attack("half an emoji", lambda url: post(f"{url}/generate", b'{"prompt": "\\ud83d"}')),
    Attack("a web page of elsewhere draws", elsewhere("/generate", REFERENCE, Origin="https://elsewhere.example")),
    Attack("a rebound name unloads", elsewhere("/api/models/unload", {}, Host="elsewhere.example")),
)


def _watch(url: str, pid: int, begun: Any, ending: Any, found: Any) -> None:
    """Poll ``/health`` and a process's memory until told to end; tell the worst of both."""
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
    found.put((worst, peak))


@contextlib.contextmanager
def serving(program: Path, environ: Mapping[str, str]) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server of the demo, ready."""
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
    """Attack a fresh server once."""
    headers = {"X-API-Key": "benchmark"}

    def draw(url: str) -> tuple[float, bytes]:
        began = time.monotonic()
        answer = httpx.post(f"{url}/generate", json=REFERENCE, headers=headers, timeout=4 * PATIENCE)
        return time.monotonic() - began, answer.raise_for_status().content

    with serving(program, attack.environ) as (url, process):
        alone = [draw(url) for _ in range(4)][1:]
        memory = psutil.Process(process.pid).memory_info().rss
        over, slowest = threading.Event(), [0.0]

        def second_client() -> None:
            while not over.is_set():
                slowest.append(draw(url)[0])

        context = multiprocessing.get_context("spawn")
        begun, ending, found = context.Event(), context.Event(), context.Queue()
        watch = context.Process(target=_watch, args=(url, process.pid, begun, ending, found))
        watch.start()
        with ThreadPoolExecutor(1) as pool:
            drawing = pool.submit(second_client)
            begun.wait(PATIENCE)
            answer = attack.run(url)
            over.set()
            drawing.result()
        ending.set()
        worst, peak = found.get()
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
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", type=Path, default=Path(sys.executable).parent / "imagegen")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="attacks whose names hold this")
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
        "second client's delay, s",
        "peak, MiB",
        "kept, MiB",
        "its bytes",
    ]
    show(heading, rows)


if __name__ == "__main__":
    main()
