"""Pictures from prompts, images and masks share passes, and each is the picture that it is alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.pictures_in.conftest import Pair, ask, make_pair, mask, picture


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def worker_pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """An ordinary checkpoint in two precisions."""
    folder: Path = tmp_path_factory.mktemp("company")
    return make_pair("sdxl" if request.param == "fp32" else "sd15", folder, dtype=request.param)


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
