"""Thousands of requests of every kind do not increase the resources of the server."""

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
from tests.repetitions import FACTOR
from tests.server.conftest import LIMIT, listening
from tests.server.test_fuzz import Quick

logger = logging.getLogger(__name__)

WARM, ALL = 1000, 1000 + 1500 * FACTOR  # numbers of requests
CLIENTS = 8
KEPT = 64  # stored pictures; the store is full before the first measurement
GROWTH, GROWTH_BYTES = 0.03, 8 * 2**20
DESCRIPTORS = 3
THREADS = 8  # of pools, which start them when several calls meet
OBJECTS = (ALL - WARM) // 2  # allowed growth of the objects that Python's collector tracks: fewer than one per request
PROMPT_BYTES = 20_000  # bytes per prompt; large enough to reveal a kept request, job or picture
_POOLED = "AnyIO worker thread"  # a limited number of threads, which end when idle


class Resources(NamedTuple):
    """The resources that the server's process uses."""

    resident: int
    descriptors: int
    threads: int
    objects: int


def _serve(connection: Connection) -> None:
    """Run the server, send its address, and send its resources at each request on the connection."""
    limits: dict[str, Any] = {"max_pixels": 256 * 256, "max_upscaled_pixels": 10**6}
    limits |= {"storage_max_items": KEPT, "max_prompt_chars": PROMPT_BYTES}
    with LocalEngine(Quick()) as engine:
        app = create_app(Settings.load(environ={}, **limits), engine)
        with listening(app) as url:
            connection.send(url)
            while connection.recv():
                _collect()
                process = psutil.Process()
                threads = [thread for thread in threading.enumerate() if not thread.name.startswith(_POOLED)]
                objects = len(gc.get_objects())
                connection.send(Resources(process.memory_info().rss, process.num_fds(), len(threads), objects))


def _collect() -> None:
    """Return unused memory to the system; the process's memory is then the memory in use."""
    gc.collect()
    if sys.platform == "linux":
        with suppress(AttributeError):  # only glibc has it
            ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def _server() -> Iterator[tuple[str, Callable[[], Resources]]]:
    """Start a server in its own process; yield its address, and a function that returns its resources."""
    context = multiprocessing.get_context("spawn")
    connection, child_connection = context.Pipe()
    process = context.Process(target=_serve, args=(child_connection,), name="soaked-server")
    process.start()
    child_connection.close()

    def receive() -> Any:
        assert connection.poll(LIMIT), "the server's process does not answer"
        return connection.recv()

    def resources() -> Resources:
        connection.send(True)
        reply: Resources = receive()
        return reply

    try:
        yield receive(), resources
        connection.send(False)
        process.join(LIMIT)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()
        process.close()
        connection.close()


class Client:
    """A client with its own connection and random choices."""

    def __init__(self, url: str, number: int) -> None:
        self.url = url
        self.rng = random.Random(number)
        self.statuses: Counter[int] = Counter()
        self.actions: Counter[str] = Counter()
        self.pictures = 0
        self.fetched: Counter[int] = Counter()

    def run(self, total: int) -> None:
        """Send random requests until `total` requests were sent."""
        actions = (
            self.generate,
            self.generate_as_json,
            self.follow_a_job,
            self.leave_a_job,
            self.cancel_a_job,
            self.openai,
            self.a1111,
            self.superres,
            self.store_and_delete,
            self.send_invalid_request,
            self.read_status,
        )
        with httpx.Client(base_url=self.url, timeout=LIMIT) as self.http:
            while self.statuses.total() < total:
                action = self.rng.choice(actions)
                self.actions[action.__name__] += 1
                action()

    def send(self, method: str, path: str, *expected: int, **options: Any) -> Any:
        response = self.http.request(method, path, **options)
        return self._checked(response, *(expected or (200,)))

    def _checked(self, response: Any, *expected: int) -> Any:
        self.statuses[response.status_code] += 1
        assert response.status_code in expected, (response.request.url, response.status_code, response.text[:500])
        return response

    def open(self, data: bytes, width: int, height: int) -> None:
        with Image.open(io.BytesIO(data)) as image:
            assert image.size == (width, height)
            image.load()
        self.pictures += 1

    def fetch(self, path: str, width: int = 64, height: int = 64) -> None:
        """Get a stored picture; the pictures of the seven other clients may have displaced it."""
        response = self.send("GET", path, 200, 404)
        self.fetched[response.status_code] += 1
        if response.status_code == 200:
            self.open(response.content, width, height)

    def body(self, **fields: Any) -> dict[str, Any]:
        return {"prompt": self.rng.randbytes(PROMPT_BYTES // 2).hex(), "size": "64x64", **fields}

    def generate(self) -> None:
        size = self.rng.choice([(64, 64), (72, 64), (128, 256)])
        response = self.send("POST", "/generate", json=self.body(size="{}x{}".format(*size)))
        self.open(response.content, *size)
        self.fetch(f"/storage/{response.headers['X-LCM-Image-Key']}", *size)

    def generate_as_json(self) -> None:
        body = self.body(superres=True, seed=self.rng.randrange(2**32))
        result = self.send("POST", "/generate", json=body, headers={"Accept": "application/json"}).json()
        assert result["seed"] == body["seed"]
        self.open(base64.b64decode(result["image"]), 128, 128)

    def post(self) -> dict[str, Any]:
        headers = {"Idempotency-Key": self.rng.randbytes(8).hex()} if self.rng.random() < 0.5 else {}
        job: dict[str, Any] = self.send("POST", "/v1/jobs", 202, json=self.body(), headers=headers).json()
        return job

    def follow_a_job(self) -> None:
        job = self.post()
        with self.http.stream("GET", job["events"]) as response:
            self._checked(response, 200)
            events = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
        self.fetch(json.loads(events[-1])["image"])

    def leave_a_job(self) -> None:
        job = self.post()
        with self.http.stream("GET", job["events"]) as response:
            self._checked(response, 200)
            next(response.iter_raw())

    def cancel_a_job(self) -> None:
        job = self.post()
        status = self.send("DELETE", f"/v1/jobs/{job['id']}").json()["status"]
        self.actions[f"cancel_a_job: {status}"] += 1
        self.send("GET", f"/v1/jobs/{job['id']}/image", 409 if status == "cancelled" else 200)

    def openai(self) -> None:
        body = self.body(n=2, response_format=self.rng.choice(["b64_json", "url"]))
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
        response = self.send("POST", "/superres", files=files, data={"out_format": "jpeg"})
        self.open(response.content, 32, 16)

    def store_and_delete(self) -> None:
        path = f"/storage/{self.rng.randbytes(8).hex()}"
        self.send("PUT", path, 204, content=self.tiny(), headers={"Content-Type": "image/png"})
        self.fetch(path, 16, 8)
        self.send("DELETE", path, 204, 404)
        self.send("GET", path, 404)

    def send_invalid_request(self) -> None:
        method, path, status, options = self.rng.choice(INVALID)
        self.send(method, path, status, **options)

    def read_status(self) -> None:
        self.send("GET", self.rng.choice(["/health", "/ready", "/metrics", "/v1/models", "/storage/health"]))

    def tiny(self) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (16, 8), (self.rng.randrange(256), 0, 0)).save(buffer, format="PNG")
        return buffer.getvalue()


INVALID: tuple[tuple[str, str, int, dict[str, Any]], ...] = (
    ("POST", "/generate", 422, {"json": {"prompt": "a star", "size": "12by7"}}),
    ("POST", "/generate", 422, {"json": {"prompt": "a star", "size": "1024x1024"}}),
    ("POST", "/generate", 422, {"content": b'{"prompt', "headers": {"Content-Type": "application/json"}}),
    ("POST", "/generate", 422, {"json": {"size": "64x64"}}),
    ("GET", "/generate", 405, {}),
    ("POST", "/v1/jobs", 422, {"json": {"prompt": "a star", "size": "64x64", "num_inference_steps": 0}}),
    ("GET", "/v1/jobs/nix/events", 404, {}),
    ("POST", "/v1/images/generations", 400, {"json": {"prompt": "a star", "n": 11}}),
    ("POST", "/sdapi/v1/txt2img", 422, {"json": {"prompt": "a star", "restore_faces": True}}),
    ("POST", "/superres", 422, {"files": {"file": ("a.png", b"nonsense")}}),
    ("PUT", "/storage/key", 422, {"content": b"nonsense"}),
    ("GET", "/storage/nix", 404, {}),
    ("GET", "/nix", 404, {}),
)


def _send(clients: list[Client], requests: int) -> None:
    """Send requests with all clients at once, until each has sent its share of `requests` in total."""
    with ThreadPoolExecutor(len(clients)) as pool:
        list(pool.map(lambda client: client.run(requests // len(clients)), clients))


def _settled_resources(resources: Callable[[], Resources], descriptors: int) -> Resources:
    """Return the server's resources once its clients' connections are closed, or after a time limit."""
    deadline = time.monotonic() + LIMIT / 2
    while (current := resources()).descriptors > descriptors and time.monotonic() < deadline:
        time.sleep(0.05)
    return current


def test_thousands_of_requests_leak_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # Use one heap. With one per thread, random work would fragment each heap at its own pace.
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    with _server() as (url, resources):
        assert httpx.get(f"{url}/health").status_code == 200
        first = _settled_resources(resources, resources().descriptors - 1)._replace(resident=0)
        clients = [Client(url, number) for number in range(CLIENTS)]
        _send(clients, WARM)
        warm = _settled_resources(resources, first.descriptors)
        start = time.monotonic()
        _send(clients, ALL)
        duration = time.monotonic() - start
        end = _settled_resources(resources, first.descriptors)
        engine = httpx.get(f"{url}/health").json()["engine"]
    statuses: Counter[int] = sum((client.statuses for client in clients), Counter())
    actions: Counter[str] = sum((client.actions for client in clients), Counter())
    fetched: Counter[int] = sum((client.fetched for client in clients), Counter())
    logger.info("%s\n%s\n%s\n%s", statuses, actions, fetched, [client.pictures for client in clients])
    logger.info("%.0f requests/s; %s, %s, %s", (ALL - WARM) / duration, first, warm, end)
    assert statuses.total() >= ALL
    assert max(statuses) < 500
    assert fetched[404] < 0.1 * fetched[200]
    assert (engine["running"], engine["waiting"], engine["failed"]) == (0, 0, 0)
    assert abs(end.descriptors - warm.descriptors) <= DESCRIPTORS
    assert abs(end.descriptors - first.descriptors) <= DESCRIPTORS
    assert end.threads <= warm.threads + THREADS
    assert end.objects - warm.objects < OBJECTS
    assert end.resident - warm.resident <= max(GROWTH * warm.resident, GROWTH_BYTES)
