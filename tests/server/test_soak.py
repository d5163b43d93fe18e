"""Thousands of requests of every kind: what the server holds stays what it was."""

from __future__ import annotations

import base64
import ctypes
import gc
import io
import json
import logging
import multiprocessing
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import httpx2 as httpx
import psutil
import pytest
from PIL import Image

from imagegen_core import LocalEngine, Settings
from imagegen_core.server import create_app
from tests.server.conftest import LIMIT, listening
from tests.server.test_fuzz import Quick

logger = logging.getLogger(__name__)

WARM, ALL = 1000, 5000  # requests
CLIENTS = 8
KEPT = 64  # pictures, so that the store is full before the first measurement
GROWTH, GROWTH_BYTES = 0.03, 8 * 2**20
DESCRIPTORS = 3
OBJECTS = (ALL - WARM) // 2  # that Python's collector knows: fewer than one for each request
WORDS = 20_000  # bytes of each prompt: whatever keeps a request, a job or a picture shows
_POOLED = "AnyIO worker thread"  # up to a number, and gone when idle


class Held(NamedTuple):
    """What the server's process holds."""

    resident: int
    descriptors: int
    threads: int
    objects: int


def _serve(line: Connection) -> None:
    """The server's process: tells its address, and what it holds whenever it is asked."""
    limits: dict[str, Any] = {"max_pixels": 256 * 256, "max_upscaled_pixels": 10**6}
    limits |= {"storage_max_items": KEPT, "max_prompt_chars": WORDS}
    with LocalEngine(Quick()) as engine:
        app = create_app(Settings.load(environ={}, **limits), engine)
        with listening(app) as url:
            line.send(url)
            while line.recv():
                _collect()
                process = psutil.Process()
                threads = [one for one in threading.enumerate() if not one.name.startswith(_POOLED)]
                objects = len(gc.get_objects())
                line.send(Held(process.memory_info().rss, process.num_fds(), len(threads), objects))


def _collect() -> None:
    """Give back what nobody holds, so that a process's memory is what it holds."""
    gc.collect()
    if sys.platform == "linux":
        with suppress(AttributeError):  # of glibc alone
            ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def _server() -> Iterator[tuple[str, Callable[[], Held]]]:
    """The address of a server in a process of its own, and a function that tells what that process holds."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), name="soaked-server")
    process.start()
    theirs.close()

    def answer() -> Any:
        assert ours.poll(LIMIT), "the server's process does not answer"
        return ours.recv()

    def held() -> Held:
        ours.send(True)
        found: Held = answer()
        return found

    try:
        yield answer(), held
        ours.send(False)
        process.join(LIMIT)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()
        process.close()
        ours.close()


class Client:
    """One of those who ask, with a connection and a fate of its own."""

    def __init__(self, url: str, number: int) -> None:
        self.url = url
        self.chance = random.Random(number)
        self.statuses: Counter[int] = Counter()
        self.asks: Counter[str] = Counter()
        self.pictures = 0
        self.fetched: Counter[int] = Counter()

    def go_on(self, until: int) -> None:
        """Ask until so many requests were sent."""
        asks = (
            self.generate,
            self.generate_as_json,
            self.follow_a_job,
            self.leave_a_job,
            self.cancel_a_job,
            self.openai,
            self.a1111,
            self.superres,
            self.keep_and_remove,
            self.ask_wrongly,
            self.look_around,
        )
        with httpx.Client(base_url=self.url, timeout=LIMIT) as self.http:
            while self.statuses.total() < until:
                ask = self.chance.choice(asks)
                self.asks[ask.__name__] += 1
                ask()

    def send(self, method: str, path: str, *expected: int, **given: Any) -> Any:
        answer = self.http.request(method, path, **given)
        return self._checked(answer, *(expected or (200,)))

    def _checked(self, answer: Any, *expected: int) -> Any:
        self.statuses[answer.status_code] += 1
        assert answer.status_code in expected, (answer.request.url, answer.status_code, answer.text[:500])
        return answer

    def open(self, data: bytes, width: int, height: int) -> None:
        with Image.open(io.BytesIO(data)) as image:
            assert image.size == (width, height)
            image.load()
        self.pictures += 1

    def fetch(self, path: str, width: int = 64, height: int = 64) -> None:
        """Get what is kept; where seven others put enough meanwhile, it is no longer."""
        answer = self.send("GET", path, 200, 404)
        self.fetched[answer.status_code] += 1
        if answer.status_code == 200:
            self.open(answer.content, width, height)

    def body(self, **fields: Any) -> dict[str, Any]:
        return {"prompt": self.chance.randbytes(WORDS // 2).hex(), "size": "64x64", **fields}

    def generate(self) -> None:
        size = self.chance.choice([(64, 64), (72, 64), (128, 256)])
        answer = self.send("POST", "/generate", json=self.body(size="{}x{}".format(*size)))
        self.open(answer.content, *size)
        self.fetch(f"/storage/{answer.headers['X-LCM-Image-Key']}", *size)

    def generate_as_json(self) -> None:
        body = self.body(superres=True, seed=self.chance.randrange(2**32))
        told = self.send("POST", "/generate", json=body, headers={"Accept": "application/json"}).json()
        assert told["seed"] == body["seed"]
        self.open(base64.b64decode(told["image"]), 128, 128)

    def post(self) -> dict[str, Any]:
        headers = {"Idempotency-Key": self.chance.randbytes(8).hex()} if self.chance.random() < 0.5 else {}
        job: dict[str, Any] = self.send("POST", "/v1/jobs", 202, json=self.body(), headers=headers).json()
        return job

    def follow_a_job(self) -> None:
        job = self.post()
        with self.http.stream("GET", job["events"]) as answer:
            self._checked(answer, 200)
            said = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
        self.fetch(json.loads(said[-1])["image"])

    def leave_a_job(self) -> None:
        job = self.post()
        with self.http.stream("GET", job["events"]) as answer:
            self._checked(answer, 200)
            next(answer.iter_raw())

    def cancel_a_job(self) -> None:
        job = self.post()
        ended = self.send("DELETE", f"/v1/jobs/{job['id']}").json()["status"]
        self.asks[f"cancel_a_job: {ended}"] += 1
        self.send("GET", f"/v1/jobs/{job['id']}/image", 409 if ended == "cancelled" else 200)

    def openai(self) -> None:
        body = self.body(n=2, response_format=self.chance.choice(["b64_json", "url"]))
        for datum in self.send("POST", "/v1/images/generations", json=body).json()["data"]:
            if "url" in datum:
                self.fetch(datum["url"])
            else:
                self.open(base64.b64decode(datum["b64_json"]), 64, 64)

    def a1111(self) -> None:
        body = {"prompt": self.body()["prompt"], "width": 64, "height": 72, "batch_size": 2}
        for image in self.send("POST", "/sdapi/v1/txt2img", json=body).json()["images"]:
            self.open(base64.b64decode(image), 64, 72)
        self.send("GET", "/sdapi/v1/progress")

    def superres(self) -> None:
        files = {"file": ("a.png", self.tiny())}
        answer = self.send("POST", "/superres", files=files, data={"out_format": "jpeg"})
        self.open(answer.content, 32, 16)

    def keep_and_remove(self) -> None:
        path = f"/storage/{self.chance.randbytes(8).hex()}"
        self.send("PUT", path, 204, content=self.tiny(), headers={"Content-Type": "image/png"})
        self.fetch(path, 16, 8)
        self.send("DELETE", path, 204, 404)
        self.send("GET", path, 404)

    def ask_wrongly(self) -> None:
        method, path, status, given = self.chance.choice(WRONG)
        self.send(method, path, status, **given)

    def look_around(self) -> None:
        self.send("GET", self.chance.choice(["/health", "/ready", "/metrics", "/v1/models", "/storage/health"]))

    def tiny(self) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (16, 8), (self.chance.randrange(256), 0, 0)).save(buffer, format="PNG")
        return buffer.getvalue()


WRONG: tuple[tuple[str, str, int, dict[str, Any]], ...] = (
    ("POST", "/generate", 422, {"json": {"prompt": "a star", "size": "12by7"}}),
    ("POST", "/generate", 422, {"json": {"prompt": "a star", "size": "1024x1024"}}),
    ("POST", "/generate", 422, {"content": b'{"prompt', "headers": {"Content-Type": "application/json"}}),
    ("POST", "/generate", 422, {"json": {"size": "64x64"}}),
    ("GET", "/generate", 405, {}),
    ("POST", "/v1/jobs", 422, {"json": {"prompt": "a star", "size": "64x64", "num_inference_steps": 0}}),
    ("GET", "/v1/jobs/nix/events", 404, {}),
    ("POST", "/v1/images/generations", 400, {"json": {"prompt": "a star", "n": 11}}),
    ("POST", "/sdapi/v1/txt2img", 422, {"json": {"prompt": "a star", "enable_hr": True}}),
    ("POST", "/superres", 422, {"files": {"file": ("a.png", b"nonsense")}}),
    ("PUT", "/storage/key", 422, {"content": b"nonsense"}),
    ("GET", "/storage/nix", 404, {}),
    ("GET", "/nix", 404, {}),
)


def _ask(clients: list[Client], requests: int) -> None:
    """Have all of them ask at the same time, until each has sent its part of all `requests` so far."""
    with ThreadPoolExecutor(len(clients)) as pool:
        list(pool.map(lambda client: client.go_on(requests // len(clients)), clients))


def _until_left(held: Callable[[], Held], descriptors: int) -> Held:
    """What the server holds once its clients' connections are closed, or after a while."""
    ends = time.monotonic() + LIMIT / 2
    while (found := held()).descriptors > descriptors and time.monotonic() < ends:
        time.sleep(0.05)
    return found


def test_thousands_of_requests_leave_a_server_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    # One heap, not one for each of the pool's threads, which are given work at random and fragment at their own pace.
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    with _server() as (url, held):
        assert httpx.get(f"{url}/health").status_code == 200
        first = _until_left(held, held().descriptors - 1)._replace(resident=0)
        clients = [Client(url, number) for number in range(CLIENTS)]
        _ask(clients, WARM)
        warm = _until_left(held, first.descriptors)
        began = time.monotonic()
        _ask(clients, ALL)
        took = time.monotonic() - began
        end = _until_left(held, first.descriptors)
        engine = httpx.get(f"{url}/health").json()["engine"]
    statuses: Counter[int] = sum((client.statuses for client in clients), Counter())
    asks: Counter[str] = sum((client.asks for client in clients), Counter())
    fetched: Counter[int] = sum((client.fetched for client in clients), Counter())
    logger.info("%s\n%s\n%s\n%s", statuses, asks, fetched, [client.pictures for client in clients])
    logger.info("%.0f requests/s; %s, %s, %s", (ALL - WARM) / took, first, warm, end)
    assert statuses.total() >= ALL
    assert max(statuses) < 500
    assert fetched[404] < 0.1 * fetched[200]
    assert (engine["running"], engine["waiting"], engine["failed"]) == (0, 0, 0)
    assert abs(end.descriptors - warm.descriptors) <= DESCRIPTORS
    assert abs(end.descriptors - first.descriptors) <= DESCRIPTORS
    assert end.threads <= warm.threads
    assert end.objects - warm.objects < OBJECTS
    assert end.resident - warm.resident <= max(GROWTH * warm.resident, GROWTH_BYTES)
