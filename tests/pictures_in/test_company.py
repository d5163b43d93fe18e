"""Pictures from prompts, images and masks share passes, and each is the picture that it is alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from imagegen_core import InpaintOptions, LocalEngine, OutpaintOptions, Variation
from tests.pictures_in.conftest import Pair, ask, make_pair, mask, picture
from tests.repetitions import FACTOR

SAMPLERS = ["LCM", "Euler", "Euler a", "DPM++ 2M", "Heun", "DDIM"]
_WAIT = 120


def random_request(chance: random.Random) -> dict[str, Any]:
    """Return the fields of a request of a random kind, all of one size."""
    fields: dict[str, Any] = {
        "seed": chance.randrange(1000),
        "scheduler": chance.choice(SAMPLERS),
        "num_inference_steps": chance.randrange(2, 6),
        "guidance_scale": chance.choice([1.0, 1.0, 4.0]),
    }
    kinds: list[dict[str, Any]] = [
        {"size": "64x48"},
        {"size": "64x48", "variation": Variation(seed=3, strength=0.4)},
        {"image": picture(), "strength": chance.random()},
        {"image": picture(80, 56, seed=5), "size": "64x48", "resize": chance.choice(["crop", "pad", "latent"])},
        {"image": picture(), "mask": mask(), "strength": chance.choice([0.5, 1.0])},
        {"image": picture(), "mask": mask(), "inpaint": InpaintOptions(only_masked=True, blur=2), "size": "64x48"},
        {"image": picture(48, 48), "outpaint": OutpaintOptions(left=16)},
    ]
    return fields | chance.choice(kinds)


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def worker_pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """An ordinary checkpoint in two precisions."""
    folder: Path = tmp_path_factory.mktemp("company")
    return make_pair("sdxl" if request.param == "fp32" else "sd15", folder, dtype=request.param)


@pytest.mark.parametrize("seed", range(2 * FACTOR))
def test_a_picture_is_the_same_alone_and_in_company(worker_pair: Pair, seed: int) -> None:
    chance = random.Random(seed)
    requests = [random_request(chance) for _ in range(12)]
    alone = [worker_pair.picture(**fields).png for fields in requests]
    with LocalEngine(worker_pair.worker) as engine:
        tickets = [engine.submit(ask(**fields)) for fields in requests]
        leaving = [engine.submit(ask(**random_request(chance))) for _ in range(3)]
        for ticket in leaving:
            ticket.cancel()
        together = [ticket.result(_WAIT).png for ticket in tickets]
        steps = engine.report().steps
    assert together == alone
    assert max(steps) > 1, "no pass was shared"


def test_images_join_the_group_of_prompts(worker_pair: Pair) -> None:
    from imagegen_core import Job

    worker = worker_pair.worker
    plain, drawn, painted = (
        worker.begin(Job(req=ask(**fields)))
        for fields in (
            {"size": "64x48"},
            {"image": picture(), "strength": 0.5},
            {"image": picture(), "mask": mask()},
        )
    )
    assert worker.group(plain) == worker.group(drawn) == worker.group(painted)


def test_steps_are_counted_from_the_first_that_is_drawn(worker_pair: Pair) -> None:
    from imagegen_core import Job, StepDone

    steps: list[StepDone] = []
    job = Job(req=ask(image=picture(), strength=0.5, num_inference_steps=8), on_step=steps.append)
    worker_pair.worker.run_job(job)
    assert [(done.step, done.steps) for done in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_an_encoded_image_is_kept(worker_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    vae, encoded = worker_pair.worker.pipe.vae, []
    original = vae.encoder.conv_in.forward

    def count(*inputs: Any) -> Any:
        encoded.append(inputs)
        return original(*inputs)

    monkeypatch.setattr(vae.encoder.conv_in, "forward", count)
    image = picture(64, 48, seed=99)
    first = worker_pair.picture(image=image, strength=0.5)
    assert worker_pair.picture(image=image, strength=0.5).png == first.png
    assert worker_pair.picture(image=image, strength=0.5, seed=8).png != first.png
    assert len(encoded) == 1


def test_others_step_while_an_image_is_prepared(worker_pair: Pair) -> None:
    """The parts of a beginning are short: Pillow's work is on its own thread, and the VAE's goes block by block."""
    from imagegen_core import Job

    image = picture(640, 480, seed=77)
    parts = sum(1 for _ in worker_pair.worker.begin_in_parts(Job(req=ask(image=image, strength=0.5))))
    assert parts > len(worker_pair.worker.pipe.vae.encoder.down_blocks)
