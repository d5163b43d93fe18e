"""Requests of all kinds share one engine, with cancellations and LoRAs, and each picture is the picture drawn alone."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from imagegen_core import (
    GenerateRequest,
    HiresOptions,
    InpaintOptions,
    LocalEngine,
    LoraUse,
    OutpaintOptions,
    Variation,
)
from tests.loras import as_kohya, random_lora, save
from tests.pictures_in.conftest import SAMPLERS, Pair, ask, make_pair, mask, picture
from tests.repetitions import FACTOR

MIXES = 2 * FACTOR  # for each worker
CHECKPOINTS = [  # family, precision and the network's channels; by night all, else half of them
    (family, dtype, channels)
    for row, family in enumerate(("sd15", "sdxl"))
    for column, dtype in enumerate(("fp32", "bf16"))
    for number, channels in enumerate((4, 9))
    if FACTOR > 1 or (row + column) % 2 == number
]
SIZES = ["64x64", "64x64", "64x48", "96x64"]
_WAIT = 300


class Mixing(NamedTuple):
    """One engine, another worker of the same checkpoint for pictures alone, and a LoRA's file."""

    engine: LocalEngine
    alone: Pair
    channels: int
    lora: Path


class Arrival(NamedTuple):
    """A request, its delay after the previous request, and the time until it is cancelled, in seconds."""

    request: GenerateRequest
    after: float
    cancelled_after: float | None


@pytest.fixture(scope="module", params=CHECKPOINTS, ids=lambda checkpoint: "-".join(map(str, checkpoint)))
def mixing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mixing]:
    """An engine for each kind of checkpoint; it draws all mixes."""
    family, dtype, channels = request.param
    folder = tmp_path_factory.mktemp("mixes")
    for_lora, drawing, alone = (
        make_pair(family, folder / name, dtype=dtype, in_channels=channels) for name in ("lora", "engine", "alone")
    )
    lora = folder / "ink.safetensors"
    save(as_kohya(random_lora(for_lora.worker.pipe)), lora)
    with LocalEngine(drawing.worker) as engine:
        yield Mixing(engine, alone, channels, lora)


def random_request(chance: random.Random, channels: int, lora: Path) -> GenerateRequest:
    """Return a request of a random kind."""
    size = chance.choice(SIZES)
    width, height = map(int, size.split("x"))
    image, white = picture(width, height, seed=chance.randrange(3)), mask(width, height)
    strength = chance.choice([0.3, 0.6, 1.0, chance.random()])
    inpaint = InpaintOptions(
        fill=chance.choice(["original", "surroundings", "noise", "zeros"]),
        blur=chance.choice([0, 0, 2.5]),
        only_masked=chance.random() < 0.4,
        padding=chance.choice([0, 8]),
        invert=chance.random() < 0.2,
    )
    kinds: list[dict[str, Any]] = [
        {"size": size},
        {"size": size, "variation": Variation(seed=3, strength=0.4)},
        {"size": size, "variation": Variation(resize_from=chance.choice(["48x80", "128x64"]))},
        {"image": image, "strength": strength},
        {"image": image, "strength": strength, "variation": Variation(seed=5, strength=0.7)},
        {"image": picture(81, 57), "size": size, "resize": chance.choice(["crop", "pad", "latent"])},
        {"image": image, "mask": white, "strength": strength, "inpaint": inpaint},
        {"image": picture(131, 93), "mask": mask(131, 93), "inpaint": inpaint, "size": size, "strength": strength},
        {"image": picture(48, 48), "outpaint": OutpaintOptions(left=16, bottom=chance.choice([0, 16]))},
    ]
    if channels == 4:
        second = HiresOptions(
            size=chance.choice(SIZES),
            strength=strength,
            scheduler=chance.choice([None, "Euler a"]),
            upscaler=chance.choice([None, "latent (bicubic)", "lanczos"]),
        )
        kinds += [{"size": size, "hires": second}, {"image": image, "strength": strength, "hires": second}]
    asked = ask(
        prompt=chance.choice(["a lake at dawn", "a red star", "a lake " * 60]),
        seed=chance.randrange(4),
        scheduler=chance.choice(SAMPLERS),
        num_inference_steps=chance.randrange(1, 7),
        guidance_scale=chance.choice([1.0, 1.0, 4.0]),
        **chance.choice(kinds),
    )
    strength_of_lora = chance.choice([0.0, 0.0, 0.4, 1.0, -0.5])
    return asked.with_loras([LoraUse(lora, strength_of_lora, "ink")] if strength_of_lora else [])


def random_mix(seed: int, mixing: Mixing) -> list[Arrival]:
    """Return 1 to 12 requests, of which some are cancelled."""
    chance = random.Random(seed)
    return [
        Arrival(
            random_request(chance, mixing.channels, mixing.lora),
            chance.choice([0, 0, 0.01, 0.03]),
            chance.choice([None, None, None, chance.random() / 4]),
        )
        for _ in range(chance.randint(1, 12))
    ]


@pytest.mark.parametrize("seed", range(MIXES))
def test_every_picture_of_a_mix_equals_the_picture_drawn_alone(mixing: Mixing, seed: int) -> None:
    mix, tickets, timers = random_mix(seed, mixing), [], []
    for arrival in mix:
        threading.Event().wait(arrival.after)
        ticket = mixing.engine.submit(arrival.request)
        tickets.append(ticket)
        if arrival.cancelled_after is not None:
            timers.append(threading.Timer(arrival.cancelled_after, ticket.cancel))
            timers[-1].start()
    for timer in timers:
        timer.join()
    for arrival, ticket in zip(mix, tickets, strict=True):
        if ticket.job.fut.cancelled():
            assert arrival.cancelled_after is not None
        else:
            assert ticket.result(_WAIT).png == mixing.alone.drawn(arrival.request).png, arrival.request


def test_the_mixes_share_passes(mixing: Mixing) -> None:
    for ticket in [mixing.engine.submit(ask(size="64x64", seed=seed, num_inference_steps=20)) for seed in range(4)]:
        ticket.result(_WAIT)
    assert max(mixing.engine.report().steps) > 1
