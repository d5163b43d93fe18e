"""Compare the engine behind FastAPI with LitServe or Ray Serve and their dynamic batching of the plain pipeline.

All use the same checkpoint, pictures, precision and number of threads. Sixteen clients send requests at random moments
over HTTP. Each peer batches as in its documentation, with the batch size of `--batch`. This needs
``pip install litserve 'ray[serve]'``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import quantiles

import httpx2 as httpx
from figures import show, spread

CLIENTS = 16
PAUSE = 0.05  # seconds between a response and the next request, on average

PIPELINE = """
import io, torch, diffusers

class Pipeline:
    def __init__(self):
        load = diffusers.StableDiffusionXLPipeline.from_pretrained
        self.pipe = load(CHECKPOINT, dtype=torch.float32, local_files_only=True)
        self.pipe.scheduler = diffusers.LCMScheduler.from_config(self.pipe.scheduler.config)
        self.pipe.set_progress_bar_config(disable=True)

    def draw(self, requests):
        generators = [torch.Generator("cpu").manual_seed(request["seed"]) for request in requests]
        images = self.pipe([request["prompt"] for request in requests], num_inference_steps=4, guidance_scale=1.0,
                           width=SIDE, height=SIDE, generator=generators).images
        return [encoded(image) for image in images]

def encoded(image):
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
"""

LITSERVE = (
    PIPELINE
    + """
import litserve
from fastapi import Response

class Api(litserve.LitAPI):
    def setup(self, device):
        self.pipeline = Pipeline()

    def decode_request(self, request):
        return request

    def predict(self, requests):
        return self.pipeline.draw(requests if isinstance(requests, list) else [requests])

    def encode_response(self, output):
        return Response(output if isinstance(output, bytes) else output[0], media_type="image/png")

if __name__ == "__main__":
    litserve.LitServer(Api(max_batch_size=BATCH, batch_timeout=0.02, api_path="/generate"), accelerator="cpu").run(
        port=PORT, generate_client_file=False)
"""
)

RAY = (
    PIPELINE
    + """
import time
import ray
from ray import serve
from starlette.responses import Response

@serve.deployment(max_ongoing_requests=64)
class Api:
    def __init__(self):
        self.pipeline = Pipeline()

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.02)
    async def draw(self, requests):
        return self.pipeline.draw(requests)

    async def __call__(self, request):
        return Response(await self.draw(await request.json()), media_type="image/png")

if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"OMP_NUM_THREADS": "2"}})
    serve.start(http_options={"port": PORT})
    serve.run(Api.options(ray_actor_options={"num_cpus": 1}).bind(), route_prefix="/generate")
    while True:
        time.sleep(60)
"""
)

OURS = """
import fastapi, uvicorn
from imagegen_core import GenerateRequest, LocalEngine, Settings, load_worker

engine = LocalEngine(load_worker(settings=Settings(model=CHECKPOINT, device="cpu")))
app = fastapi.FastAPI()

@app.post("/generate")
async def generate(body: dict):
    picture = await engine.submit(GenerateRequest(size=f"{SIDE}x{SIDE}", **body))
    return fastapi.Response(picture.png, media_type="image/png")

if __name__ == "__main__":
    uvicorn.run(app, port=PORT, log_level="error")
"""


@contextlib.contextmanager
def serving(program: str, folder: Path, port: int, **values: object) -> Iterator[int]:
    """Start a server in its own process, and wait until it responds at `port`."""
    file = folder / f"server_{port}.py"
    names = "\n".join(f"{name} = {value!r}" for name, value in {"PORT": port, **values}.items())
    file.write_text(f"{names}\n{program}")
    log = (folder / f"{port}.log").open("w")
    process = subprocess.Popen([sys.executable, str(file)], stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.post(_address(port), json={"prompt": "a star", "seed": 0}, timeout=60).status_code == 200:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((folder / f"{port}.log").read_text()[-3000:])
            time.sleep(0.5)
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(20)


def _address(port: int) -> str:
    return f"http://127.0.0.1:{port}/generate"


async def ask_all(port: int, pictures: int, start: int) -> tuple[float, float]:
    """Return the pictures a second and the 95th percentile of the latency."""
    numbers = iter(range(start, start + pictures))
    rng = random.Random(start)
    waited: list[float] = []

    async def client(http: httpx.AsyncClient) -> None:
        for number in numbers:
            await asyncio.sleep(rng.expovariate(1 / PAUSE))
            began = time.perf_counter()
            response = await http.post(_address(port), json={"prompt": f"a red star, take {number}", "seed": number})
            response.raise_for_status()
            waited.append(time.perf_counter() - began)

    async with httpx.AsyncClient(timeout=300) as http:
        began = time.perf_counter()
        await asyncio.gather(*(client(http) for _ in range(CLIENTS)))
        return pictures / (time.perf_counter() - began), quantiles(waited, n=20)[-1]


def main() -> None:
    """Run the measurements and print the tables."""
    import imagegen_demo

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", choices=["litserve", "ray"], required=True)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    checkpoint = str(Path(imagegen_demo.__file__).parent / "checkpoint")
    values = {"CHECKPOINT": checkpoint, "SIDE": options.side, "BATCH": options.batch}
    peer = {"litserve": LITSERVE, "ray": RAY}[options.peer]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with serving(peer, folder, 8301, **values) as theirs, serving(OURS, folder, 8302, **values) as ours:
            rounds = []
            for number in range(options.rounds + 1):
                start = 1000 * (number + 1)
                pair = [asyncio.run(ask_all(port, options.pictures, start)) for port in (theirs, ours)]
                rounds.append(pair)
    del rounds[0]
    heading = ["peer", "its pictures a second", "ours, ratio", "its p95, s", "ours, ratio"]
    figures = [
        spread([theirs[0] for theirs, _ in rounds], 1),
        spread([ours[0] / theirs[0] for theirs, ours in rounds]),
        spread([theirs[1] for theirs, _ in rounds]),
        spread([ours[1] / theirs[1] for theirs, ours in rounds]),
    ]
    show(heading, [[f"{options.peer}, batches of {options.batch}, {options.side} px", *figures]])


if __name__ == "__main__":
    main()
