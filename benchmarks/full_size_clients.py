"""Many clients at full size: pictures a second, a short request beside long requests, and a style switch."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

from engine import client_load, join, load_engine, wait_for_batch
from plain_pipeline import encoded, plain_pipeline
from styles import switching


def our_clients(model: str, device: str, settings: Mapping[str, Any], side: int) -> Callable[[int], dict[str, float]]:
    """Return work of an engine: each client sends a request, and the work takes the last answer's time."""
    running = load_engine(model, None, device, **settings)
    turn = iter(range(1, 10**6))

    def work(clients: int) -> dict[str, float]:
        drawing = client_load(running, side, clients, clients, warm_ups=0)
        began = time.perf_counter()
        drawing(next(turn))
        return {"pictures a second": clients / (time.perf_counter() - began)}

    work(1)
    return work


def plain_batches(model: str, device: str, dtype: str, side: int) -> Callable[[int], dict[str, float]]:
    """Return work of the plain pipeline: a batch of whole requests, in one call."""
    import torch

    pipe = plain_pipeline(model, dtype, device)
    turn = iter(range(10**6))

    def work(rows: int) -> dict[str, float]:
        number = next(turn)
        began = time.perf_counter()
        images = pipe(
            [f"a red star on a blue background, take {number}-{row}" for row in range(rows)],
            num_inference_steps=4,
            guidance_scale=1.0,
            width=side,
            height=side,
            generator=[torch.Generator("cpu").manual_seed(row) for row in range(rows)],
        ).images
        for image in images:
            encoded(image)
        return {"pictures a second": rows / (time.perf_counter() - began)}

    work(1)
    return work


def our_joining(
    model: str, device: str, settings: Mapping[str, Any], side: int, steps: tuple[int, int]
) -> Callable[[int], dict[str, float]]:
    """Return work of an engine: the seconds of a short request that joins eight long requests; see `engine.join`."""
    joined = join(load_engine(model, None, device, **settings), side, *steps)
    return lambda turn: {"seconds": joined(turn)}


def whole_requests(
    model: str, device: str, dtype: str, side: int, steps: tuple[int, int]
) -> Callable[[int], dict[str, float]]:
    """Return work of the plain pipeline: the short request waits for the batch; see `engine.wait_for_batch`."""
    waiting = wait_for_batch(plain_pipeline(model, dtype, device), side, *steps)
    return lambda turn: {"seconds": waiting(turn)}


def style_switches(model: str, dtype: str, device: str, side: int) -> Callable[[int], dict[str, float]]:
    """Return work that measures a switch between two LoRAs; see `styles.switching`."""
    switch = switching(model, dtype, f"{side}x{side}", tempfile.mkdtemp(), device)
    names = ("diffusers, ms", "imagegen, ms", "a styled step, ms", "a plain step, ms")

    def work(turn: int) -> dict[str, float]:
        return dict(zip(names, switch(turn), strict=True))

    work(0)
    return work
