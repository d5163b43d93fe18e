"""Compare requests with input pictures with plain diffusers, on the demo.

One picture: `run_job` against the plain image-to-image pipeline plus PNG encoding. Many: sixteen clients with mixed
kinds against a server that batches whole requests. Waiting: the longest pause of another request's steps while a large
picture begins.
"""

from __future__ import annotations

import argparse
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import cache
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from typing import Any, NamedTuple

from engine import load_engine, over
from figures import show, spread
from plain_pipeline import encoded, plain_pipeline
from sides import Side, Work, take_turns

SIDE = 256
CLIENTS, PICTURES = 16, 32
SINGLES = [("fp32", "new"), ("fp32", "same"), ("bf16", "new")]  # precisions, and whether images and prompts repeat
WARM_UPS = 4
BATCH = 8  # the best size of the plain servers in servers.py
LARGE = 1024
FIRST, LAST, MANY = 20, 60, 1000  # steps of the small picture: the other one begins, the end, all


class Wanted(NamedTuple):
    """A client's request: equal kinds, steps and strengths can be one whole batch."""

    kind: str
    steps: int
    strength: float
    seed: int

    @property
    def key(self) -> tuple[str, int, float]:
        """What a whole batch has in common."""
        return self.kind, self.steps, self.strength

    @property
    def prompt(self) -> str:
        """A new prompt for each request."""
        return f"a red star on a blue background, take {self.seed}"


def wanted(seed: int, varied: bool) -> Wanted:
    """Return a random request: of a random kind, and also with random steps and strength."""
    chance = random.Random(seed)
    kind = chance.choice(["text", "image", "mask"])
    steps = chance.choice([4, 6, 8]) if varied else 4
    strength = 1.0 if kind == "text" else chance.choice([0.5, 0.75, 1.0]) if varied else 0.75
    return Wanted(kind, steps, strength, seed)


@cache
def photo(seed: int, side: int = SIDE) -> Any:
    """Return a picture with details."""
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(seed).integers(0, 256, (side // 8, side // 8, 3), np.uint8)
    return Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)


@cache
def mask(side: int = SIDE) -> Any:
    """Return a mask with a white box."""
    from PIL import Image

    image = Image.new("L", (side, side), 0)
    image.paste(255, (side // 3, side // 4, side - side // 8, side - side // 6))
    return image


def plain_image(checkpoint: str, dtype: str, images: str) -> Work:
    """Return the plain image-to-image pipeline with Pillow's PNG encoder; `images` is ``new`` or ``same``."""
    import diffusers
    import torch

    pipe = diffusers.StableDiffusionXLImg2ImgPipeline.from_pipe(
        plain_pipeline(checkpoint, dtype), add_watermarker=False
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.to(dtype=getattr(torch, {"fp32": "float32", "bf16": "bfloat16"}[dtype]))

    def draw(seed: int) -> bytes:
        number = seed if images == "new" else 0
        image = pipe(
            f"a red star, take {number}",
            image=photo(number),
            strength=0.75,
            num_inference_steps=4,
            guidance_scale=1.0,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).images[0]
        return encoded(image)

    return draw


def our_image(checkpoint: str, dtype: str, images: str) -> Work:
    """Return our worker's `run_job`."""
    from imagegen_core import GenerateRequest, Job, Settings, load_worker

    worker = load_worker(settings=Settings.load(environ={}, model=checkpoint, dtype=dtype, device="cpu"))

    def draw(seed: int) -> Any:
        number = seed if images == "new" else 0
        fields = {"image": photo(number), "strength": 0.75, "seed": seed}
        return worker.run_job(Job(req=GenerateRequest(prompt=f"a red star, take {number}", **fields)))

    return draw


class WholeBatches:
    """A plain server: it draws the oldest request together with waiting equal ones, by one call of a pipeline."""

    def __init__(self, checkpoint: str) -> None:
        import diffusers

        text = plain_pipeline(checkpoint, "fp32")
        kinds = {
            "image": diffusers.StableDiffusionXLImg2ImgPipeline,
            "mask": diffusers.StableDiffusionXLInpaintPipeline,
        }
        self._pipes = {"text": text} | {
            name: kind.from_pipe(text, add_watermarker=False) for name, kind in kinds.items()
        }
        for pipe in self._pipes.values():
            pipe.set_progress_bar_config(disable=True)
        self._waiting: deque[tuple[Wanted, Future[bytes]]] = deque()
        self._arrived = threading.Condition()
        threading.Thread(target=self._serve, daemon=True).start()

    def submit(self, request: Wanted) -> Future[bytes]:
        """Add a request to the queue."""
        future: Future[bytes] = Future()
        with self._arrived:
            self._waiting.append((request, future))
            self._arrived.notify()
        return future

    def _serve(self) -> None:
        while True:
            with self._arrived:
                self._arrived.wait_for(lambda: self._waiting)
                key = self._waiting[0][0].key
                batch = [item for item in self._waiting if item[0].key == key][:BATCH]
                for item in batch:
                    self._waiting.remove(item)
            images = self._draw([request for request, _ in batch])
            for (_, future), image in zip(batch, images, strict=True):
                future.set_result(encoded(image))

    def _draw(self, batch: Sequence[Wanted]) -> list[Any]:
        import torch

        kind, steps, strength = batch[0].key
        photos = [photo(request.seed) for request in batch]
        more: dict[str, dict[str, Any]] = {
            "text": {"width": SIDE, "height": SIDE},
            "image": {"image": photos, "strength": strength},
            "mask": {"image": photos, "mask_image": [mask()] * len(batch), "strength": strength}
            | {"width": SIDE, "height": SIDE},
        }
        return list(
            self._pipes[kind](
                [request.prompt for request in batch],
                num_inference_steps=steps,
                guidance_scale=1.0,
                generator=[torch.Generator("cpu").manual_seed(request.seed) for request in batch],
                **more[kind],
            ).images
        )


def plain_clients(checkpoint: str, varied: bool) -> Work:
    """Return work of the plain server."""
    return client_load(WholeBatches(checkpoint).submit, varied)


def engine_clients(checkpoint: str, varied: bool) -> Work:
    """Return work of the engine."""
    from imagegen_core import GenerateRequest

    running = load_engine(checkpoint, "fp32")

    def submit(request: Wanted) -> Future[Any]:
        fields: dict[str, Any] = {
            "text": {"size": f"{SIDE}x{SIDE}"},
            "image": {"image": photo(request.seed), "strength": request.strength},
            "mask": {"image": photo(request.seed), "mask": mask(), "strength": request.strength},
        }[request.kind]
        asked = GenerateRequest(prompt=request.prompt, seed=request.seed, num_inference_steps=request.steps, **fields)
        future: Future[Any] = running.submit(asked).job.fut
        return future

    work = client_load(submit, varied)
    for warming_up in range(WARM_UPS):  # the engine tries each number of rows once
        work(1000 + warming_up)
    return work


def client_load(submit: Callable[[Wanted], Future[Any]], varied: bool) -> Work:
    """Return work with sixteen clients; each sends its next request after a response."""
    finished: SimpleQueue[Future[Any]] = SimpleQueue()

    def work(number: int) -> None:
        pending = iter(range(number * PICTURES, (number + 1) * PICTURES))
        for _ in range(CLIENTS):
            submit(wanted(next(pending), varied)).add_done_callback(finished.put)
        for _ in range(PICTURES):
            finished.get().result()
            if (seed := next(pending, None)) is not None:
                submit(wanted(seed, varied)).add_done_callback(finished.put)

    return work


def waits(checkpoint: str, rounds: int) -> list[list[str]]:
    """Return rows: how long the steps of a small picture pause while a large one begins, in milliseconds."""
    from imagegen_core import InpaintOptions

    running = load_engine(checkpoint, "fp32")
    large, small = photo(1, LARGE), (SIDE // 2)
    whole = InpaintOptions(blur=8, fill="surroundings")
    kinds: dict[str, Callable[[int], dict[str, Any]]] = {
        "nothing": lambda _: {},
        f"an image of {LARGE} px": lambda seed: {"image": _stamped(large, seed), "strength": 0.3},
        "the same with a mask, blurred and filled": lambda seed: {
            "image": _stamped(large, seed),
            "mask": mask(LARGE),
            "inpaint": whole,
            "strength": 0.3,
        },
        f"only the masked part, at {SIDE} px": lambda seed: {
            "image": _stamped(large, seed),
            "mask": mask(LARGE),
            "size": f"{SIDE}x{SIDE}",
            "inpaint": whole.model_copy(update={"only_masked": True}),
        },
    }
    alone = median(_steps(running, f"{LARGE}x{LARGE}", 3))
    rows = []
    for name, fields in kinds.items():
        longest, usual = [], []
        for seed in range(rounds):
            gaps = _paused(running, f"{small}x{small}", fields(seed))
            longest.append(1000 * max(gaps))
            usual.append(1000 * median(gaps))
        rows.append([name, spread(usual, 0), spread(longest, 0), f"{1000 * alone:.0f}"])
    running.close()
    return rows


def _stamped(image: Any, seed: int) -> Any:
    """Return a copy with another pixel, so that no encoding is known."""
    copy = image.copy()
    copy.putpixel((0, 0), (seed % 256, seed // 256 % 256, 7))
    return copy


def _steps(running: Any, size: str, count: int) -> list[float]:
    """Return the seconds between the steps of a picture that is drawn alone."""
    from imagegen_core import GenerateRequest, StepDone

    ticket = running.submit(GenerateRequest(prompt="a lake", size=size, num_inference_steps=count + 1))
    times = [time.perf_counter() for event in ticket.events if isinstance(event, StepDone)]
    return [after - before for before, after in pairwise(times)]


def _paused(running: Any, size: str, fields: dict[str, Any]) -> list[float]:
    """Return the seconds between a picture's steps while another one begins; the other one then leaves."""
    from imagegen_core import GenerateRequest, Started, StepDone

    ticket = running.submit(GenerateRequest(prompt="a lake", size=size, num_inference_steps=MANY, scheduler="Euler"))
    other, times = None, []
    for event in ticket.events:
        if not isinstance(event, StepDone):
            continue
        times.append(time.monotonic())
        if event.step == FIRST and fields:
            other = running.submit(GenerateRequest(prompt="a red star", **fields))
        if (event.step == LAST and not fields) or (other is not None and other.events.when(Started)):
            break
    ticket.cancel()
    end = times[-1]
    if other is not None:
        other.cancel()
        end = other.events.when(Started) or end
    times = [moment for moment in times[FIRST:] if moment < end]
    return [after - before for before, after in pairwise([*times, end])]


def single(checkpoint: str, dtype: str, images: str, rounds: int) -> list[str]:
    """Return the row of one picture after another."""
    arguments = (checkpoint, dtype, images)
    sides: dict[str, Side] = {"plain": (plain_image, arguments), "ours": (our_image, arguments)}
    seconds = take_turns(sides, 4 * rounds)
    measure = f"img2img with {images} images and prompts, time, {dtype}"
    return [measure, spread(over(seconds["ours"], seconds["plain"])), "at most 0.9"]


def many(checkpoint: str, varied: bool, rounds: int) -> list[str]:
    """Return the row of sixteen clients."""
    arguments = (checkpoint, varied)
    sides: dict[str, Side] = {"plain": (plain_clients, arguments), "ours": (engine_clients, arguments)}
    seconds = take_turns(sides, rounds)
    differing = "kinds, steps and strengths" if varied else "kinds"
    measure = f"{CLIENTS} clients with mixed {differing}, pictures a second, fp32"
    return [measure, spread(over(seconds["plain"], seconds["ours"])), "at least 2"]


def main() -> None:
    """Run the measurements and print the tables."""
    import imagegen_demo

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["one", "many", "varied", "waiting"])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    demo = str(Path(imagegen_demo.__file__).parent / "checkpoint")
    heading = ["measure", "ratio", "target"]
    if "one" in options.parts:
        show(heading, [single(demo, dtype, images, options.rounds) for dtype, images in SINGLES])
    if "many" in options.parts:
        show(heading, [many(demo, False, options.rounds)])
    if "varied" in options.parts:
        show(heading, [many(demo, True, options.rounds)])
    if "waiting" in options.parts:
        heading = ["beginning beside it", "usual pause, ms", "longest pause, ms", f"a step of {LARGE} px, ms"]
        show(heading, waits(demo, options.rounds))


if __name__ == "__main__":
    main()
