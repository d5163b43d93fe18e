"""``img2img`` draws what plain diffusers draws with A1111's steps."""

from __future__ import annotations

import base64
import copy
import io
import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from imagegen_core import read_recipe
from tests.pictures_in.conftest import difference, picture
from tests.server.a1111.conftest import Poster, base64_of, pixels_of


@pytest.fixture(scope="module")
def plain(sdxl_checkpoint: Path) -> Any:
    pipe = diffusers.StableDiffusionXLImg2ImgPipeline.from_pretrained(
        sdxl_checkpoint, local_files_only=True, add_watermarker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def expected(plain: Any, poster: Poster, image: Image.Image, drawn: int, steps: int = 6, seed: int = 7) -> Any:
    """Draw with the plain pipeline and the server's sampler; `drawn` is the number of steps."""
    schedulers = poster.server.worker._schedulers
    found = schedulers._find("Euler", "Automatic")
    plain.scheduler = copy.deepcopy(schedulers._prototype(*found).scheduler)
    return np.asarray(
        plain(
            "a lake at dawn",
            image=image,
            num_inference_steps=steps,
            strength=(drawn + 0.5) / steps if drawn < steps else 1.0,
            guidance_scale=1.0,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).images[0]
    )


@pytest.mark.parametrize(("denoising", "drawn"), [(0.5, 4), (0.75, 5), (1.0, 6), (0.0, 1)])
def test_pictures_equal_plain_diffusers_with_a1111s_steps(
    img2img: Poster, plain: Any, denoising: float, drawn: int
) -> None:
    seed = 70 + drawn
    pixels = img2img.draw(denoising_strength=denoising, cfg_scale=1, seed=seed)
    assert img2img.steps_of(seed) == drawn
    assert difference(pixels, expected(plain, img2img, picture(), drawn, seed=seed)) <= 1


def test_the_default_strength_is_that_of_a1111(img2img: Poster) -> None:
    assert (img2img.draw() == img2img.draw(denoising_strength=0.75)).all()
    assert (img2img.draw() == img2img.draw(denoising_strength=None)).all()
    assert (img2img.draw() != img2img.draw(denoising_strength=0.5)).any()


def test_the_option_for_exact_steps_is_heeded(img2img: Poster, plain: Any) -> None:
    fields = {"steps": 4, "denoising_strength": 0.7, "cfg_scale": 1, "seed": 80}
    answer = img2img.answer(**fields, override_settings={"img2img_fix_steps": True})
    pixels, info = pixels_of(answer["images"][0]), json.loads(answer["info"])
    assert (info["steps"], "Steps: 4, " in info["infotexts"][0]) == (4, True)
    assert img2img.steps_of(80) == 4
    assert difference(pixels, expected(plain, img2img, picture(), drawn=4, steps=5, seed=80)) <= 1


@pytest.mark.parametrize(("mode", "name"), [(0, "default"), (1, "crop"), (2, "fill")])
def test_resize_modes_resize_the_image(img2img: Poster, plain: Any, mode: int, name: str) -> None:
    given = picture(80, 48)
    resized = plain.image_processor.resize(given, 48, 64, name)
    pixels = img2img.draw(init_images=[base64_of(given)], resize_mode=mode, denoising_strength=0.5, cfg_scale=1)
    assert difference(pixels, expected(plain, img2img, resized, drawn=4)) <= 1


def test_the_size_is_never_the_images(img2img: Poster) -> None:
    small = img2img.draw(init_images=[base64_of(picture(80, 48))], width=None, height=40)
    assert small.shape == (40, 64, 3)  # the width is the model's own


def test_latents_are_resized_in_mode_3(img2img: Poster) -> None:
    image = base64_of(picture(80, 56))
    stretched, latent = (img2img.answer(init_images=[image], resize_mode=mode)["images"][0] for mode in (0, 3))
    assert read_recipe(base64.b64decode(latent)).resize == "latent"
    assert stretched != latent


def test_a_data_url_and_a_jpeg_are_read(img2img: Poster) -> None:
    text = base64_of(picture())
    assert (img2img.draw() == img2img.draw(init_images=[f"data:image/png;base64,{text}"])).all()
    assert img2img.draw(init_images=[base64_of(picture(), "JPEG")]).shape == (48, 64, 3)


def test_transparent_parts_get_the_background(img2img: Poster) -> None:
    image = picture().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    for colour in ("#ffffff", "#123456"):
        ground = Image.new("RGBA", image.size, colour)
        ground.alpha_composite(image)
        opaque = base64_of(ground.convert("RGB"))
        options = {"img2img_background_color": colour} if colour != "#ffffff" else {}
        drawn = img2img.draw(init_images=[base64_of(image)], override_settings=options)
        assert difference(drawn, img2img.draw(init_images=[opaque])) <= 1


def test_several_images_are_a_batch(img2img: Poster) -> None:
    images = [base64_of(picture()), base64_of(picture(seed=4))]
    answer = img2img.answer(init_images=images, batch_size=2, n_iter=2, seed=7)
    assert json.loads(answer["info"])["all_seeds"] == [7, 8, 9, 10]
    alone = [img2img.draw(init_images=[images[number % 2]], seed=7 + number) for number in range(4)]
    assert all((pixels_of(text) == other).all() for text, other in zip(answer["images"], alone, strict=True))


def test_the_answer_describes_the_request(img2img: Poster) -> None:
    answer = img2img.answer(denoising_strength=0.6)
    info = json.loads(answer["info"])
    assert info["denoising_strength"] == info["extra_generation_params"]["Denoising strength"] == 0.6
    (text,) = info["infotexts"]
    assert "Denoising strength: 0.6, " in text
    assert Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))).info["parameters"] == text
    assert (answer["parameters"]["init_images"], answer["parameters"]["mask"]) == (None, None)
    assert answer["parameters"]["denoising_strength"] == 0.6
    told = img2img.answer(include_init_images=True)["parameters"]
    assert told["init_images"] == img2img.defaults["init_images"]


def test_a_recipe_draws_the_picture_again(img2img: Poster) -> None:
    answer = img2img.answer(denoising_strength=0.6)
    recipe = read_recipe(base64.b64decode(answer["images"][0]))
    request = recipe.request().model_dump(exclude_unset=True, exclude_none=True)
    again = img2img.server.http.post("/generate", json={**request, "image": img2img.defaults["init_images"][0]})
    assert again.status_code == 200, again.text
    assert (np.asarray(Image.open(io.BytesIO(again.content))) == pixels_of(answer["images"][0])).all()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no image": ({"init_images": []}, "There is no image in init_images: send one as base64"),
    "null": ({"init_images": None}, "There is no image in init_images"),
    "more images than the batch": ({"init_images": ["x", "y"], "batch_size": 1}, "batch_size is 1: set it to 2"),
    "an address": ({"init_images": ["http://127.0.0.1/a.png"]}, "Cannot fetch the init_images from '127.0.0.1'"),
    "a path": ({"init_images": ["/etc/a.png"]}, "The image is not base64"),
    "no picture": ({"init_images": ["aGVsbG8="]}, "Cannot read the picture in init_images: it is not a PNG"),
    "strength": ({"denoising_strength": 1.5}, "Invalid denoising_strength 1.5: expected a number from 0 to 1"),
    "resize_mode": ({"resize_mode": 4}, "Invalid resize_mode 4"),
    "noise": ({"initial_noise_multiplier": 1.1}, "initial_noise_multiplier='1.1' is nothing this server does"),
    "hires": ({"enable_hr": True}, "enable_hr='True' is nothing this server does"),
    "latent mask": ({"latent_mask": "x"}, "latent_mask='x' is nothing this server does"),
    "refiner": ({"refiner_checkpoint": "xl-refiner"}, "Invalid refiner_checkpoint 'xl-refiner'. This"),
    "size": ({"width": 65}, "Invalid size '65x48'"),
    "steps": ({"steps": 0}, "Invalid steps 0: expected a whole number from 1 to 150"),
    "many steps": ({"steps": 10**300}, "Invalid steps 1000000000"),
    "image guidance": ({"image_cfg_scale": 2}, "only an instruct-pix2pix checkpoint takes it"),
    "colours": (
        {"override_settings": {"img2img_color_correction": True}},
        "The option img2img_color_correction is True, and img2img draws here with False",
    ),
    "background": ({"override_settings": {"img2img_background_color": "sky"}}, "expected a colour such as #ffffff"),
    "exact steps": (
        {"override_settings": {"img2img_fix_steps": True}, "denoising_strength": 0.01},
        "its 6 steps are the last of 600, and this server takes up to 150",
    ),
}


@pytest.mark.parametrize(("fields", "sentence"), WRONG.values(), ids=WRONG)
def test_wrong_fields_are_refused(img2img: Poster, fields: dict[str, Any], sentence: str) -> None:
    assert sentence in img2img.refusal(**fields)


def test_harmless_values_are_accepted(img2img: Poster) -> None:
    harmless = {"image_cfg_scale": 1.5, "initial_noise_multiplier": 1.0, "styles": [None], "steps": 6.5, "eta": 1.0}
    nulls = dict.fromkeys(("mask", "mask_blur", "inpainting_fill", "image_cfg_scale", "resize_mode", "latent_mask"))
    assert (img2img.draw(**harmless) == img2img.draw()).all()
    assert (img2img.draw(**nulls, foreign={"a": 1}) == img2img.draw()).all()
