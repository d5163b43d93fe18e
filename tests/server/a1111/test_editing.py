"""``img2img`` with an instruct-pix2pix checkpoint, as in A1111."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imagegen_core import Settings
from imagegen_core.hosting.model_card import ModelCard
from imagegen_core.plugins.registry import Registry
from tests.pictures_in.conftest import Pair, difference, make_pair, picture
from tests.server.a1111.conftest import Poster, base64_of
from tests.server.conftest import running

_SMALL = {"prompt": "a lake at dawn", "seed": 7, "width": 64, "height": 48, "steps": 6, "sampler_name": "Euler"}


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair("sd15", tmp_path_factory.mktemp("editing"), in_channels=8)


@pytest.fixture(scope="module")
def img2img(editor: Pair) -> Iterator[Poster]:
    with running(editor.worker) as server:
        yield Poster(server, "img2img", {**_SMALL, "init_images": [base64_of(picture())]})


def test_the_default_strength_is_drawn_with_the_image_as_a_condition(img2img: Poster, editor: Pair) -> None:
    """A1111 adds noise of the strength to the image: ``StableDiffusionProcessingImg2Img.sample``."""
    drawn = img2img.draw(cfg_scale=4, image_cfg_scale=1.2)
    sampling = {"num_inference_steps": 6, "scheduler": "Euler", "schedule": "Automatic"}
    fields = sampling | {"guidance_scale": 4.0, "image_guidance_scale": 1.2}
    five_of_six = editor.draw(image=picture(), strength=0.9, **fields)
    assert difference(drawn, five_of_six) == 0
    whole = img2img.draw(cfg_scale=4, image_cfg_scale=1.2, denoising_strength=1)
    assert difference(whole, editor.draw(image=picture(), **fields)) == 0


def test_models_list_the_fields_that_the_checkpoint_takes(img2img: Poster) -> None:
    (model,) = img2img.server.http.get("/v1/models").json()["data"]
    assert "image_guidance_scale" in model["fields"]
    assert "strength" in model["fields"]
    assert not {"mask", "inpaint", "outpaint", "hires"} & {*model["fields"]}


@pytest.mark.parametrize("channels", [4, 8, 9])
def test_an_unloaded_checkpoint_lacks_the_same_fields(channels: int, tmp_path: Path) -> None:
    pair = make_pair("sd15", tmp_path, in_channels=channels)
    unloaded = ModelCard.of_files(Settings(model=str(pair.folder)), Registry.discover())
    assert unloaded.lacking == pair.worker.lacking
    assert ("image_guidance_scale" in unloaded.lacking) == (channels != 8)
