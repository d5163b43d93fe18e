"""Checks of the pictures, and of their latents and recipes."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest

from imagegen_core.backend import Backend
from imagegen_core.images.recipe import OWN_CHUNK, Recipe, read_recipe
from imagegen_core.job import Job
from imagegen_core.picture import Picture
from imagegen_core.picture_files.decode import read_picture, read_text
from imagegen_core.plugins.registry import Registry
from imagegen_core.replay import recipe_differences, request_of, settings_of
from imagegen_core.request import Size
from imagegen_core.settings import Settings
from imagegen_core.testing.backend.kit import BackendKit
from imagegen_core.testing.quick import QUICK
from imagegen_core.worker import Worker

_CHANNEL = 8 * 8 * 2  # bytes


class PictureChecks(BackendKit):
    """The PNG, its size, its latents, its recipe."""

    @QUICK
    def test_the_picture_is_a_png(self, worker: Worker) -> None:
        """All later code, from the browser to the recipe reader, needs a complete PNG of RGB pixels."""
        png, _ = worker.run_job(Job(req=self.ask()))
        image = read_picture(png, png_only=True)
        image.load()
        assert image.mode == "RGB", f"the picture is {image.mode}: expected RGB"

    @QUICK
    def test_the_picture_has_the_requested_size(self, worker: Worker, description: Backend) -> None:
        """Width comes before height, and the picture has exactly the requested size."""
        wide = self.wide(description)
        sizes = (
            [wide] if "size" in description.without else [wide, Size(wide.height, wide.width), Size.parse(self.size)]
        )
        for size in sizes:
            assert self.draw(worker, size=str(size)).size == (size.width, size.height)

    def test_the_default_size_is_the_native_size(self, worker: Worker, description: Backend) -> None:
        """Models draw well at their training resolution, so a request without a size uses it."""
        native = Size.parse(getattr(worker, "native_size", description.default_size))
        assert self.draw(worker, size=None, num_inference_steps=1).size == (native.width, native.height)

    @QUICK
    def test_the_prompt_changes_the_picture(self, worker: Worker) -> None:
        """The prompt is the main input."""
        assert self.pixels(worker, prompt="a red lake") != self.pixels(worker, prompt="a green hill")

    def test_an_empty_prompt_is_drawn(self, worker: Worker) -> None:
        """An empty prompt is a valid prompt; so are emoji, and a page of text."""
        for prompt in ("", "🦊 狐狸", "a very long story " * 60):
            assert self.draw(worker, prompt=prompt).png

    @QUICK
    def test_latents_are_8x8_float16(self, worker: Worker, description: Backend) -> None:
        """Latents serve as a fingerprint: little-endian float16 [1, channels, 8, 8], whatever the picture's size.

        The backend's families declare the number of channels; it is 4 for a backend without families, and any number
        for a backend of all families.
        """
        latents, families = self.draw(worker).latents, Registry.discover().families
        declared = [families[name] for name in description.architectures if name in families]
        expected = {_CHANNEL * family.latent_channels for family in declared} or {4 * _CHANNEL}
        if "*" in description.architectures:
            expected = {max(1, len(latents) // _CHANNEL) * _CHANNEL}
        assert len(latents) in expected, f"the latents have {len(latents)} bytes: expected {max(expected)}"
        values = struct.unpack(f"<{len(latents) // 2}e", latents)
        assert all(map(math.isfinite, values)), "the latents are not all finite numbers"
        assert len(set(values)) > 1, "the latents are all the same number"

    def test_latents_belong_to_the_picture(self, worker: Worker) -> None:
        """Image and latents come from one denoising pass, and `run_job` gives the same image."""
        picture = self.draw(worker, seed=5)
        assert worker.run_job(Job(req=self.ask(seed=5))) == (picture.png, picture.seed)
        assert picture.latents == self.draw(worker, seed=5).latents
        assert picture.latents != self.draw(worker, seed=6).latents

    @QUICK
    def test_the_recipe_matches_the_request(self, worker: Worker, description: Backend) -> None:
        """`imagegen replay` draws a picture again from its recipe."""
        fields: dict[str, Any] = {"prompt": "a lake, at dusk", "seed": 11, "num_inference_steps": 3}
        picture = self.draw(worker, **fields)
        recipe = _recipe(picture)
        known = {"prompt": recipe.prompt, "seed": recipe.seed, "num_inference_steps": recipe.steps}
        assert known == fields
        assert (recipe.width, recipe.height) == picture.size
        assert recipe.backend == description.name

    def test_the_recipe_draws_the_picture_again(self, worker: Worker, description: Backend, settings: Settings) -> None:
        """`imagegen replay` draws the same bytes, by a new worker with the recipe's settings."""
        fields: dict[str, Any] = {"prompt": "a lake, at dusk", "seed": 12}
        fields |= {} if "guidance_scale" in description.without else {"guidance_scale": 3.0}
        picture = self.draw(worker, **fields)
        recipe = _recipe(picture)
        again = settings_of(recipe, settings)
        png, _ = description.load()(worker_id=2, settings=again).run_job(Job(req=request_of(recipe, again)))
        differing = recipe_differences(recipe, read_recipe(png))
        assert not differing, f"the replayed picture has another recipe: {'; '.join(differing)}"
        assert png == picture.png, "the recipe draws another picture"


def _recipe(picture: Picture) -> Recipe:
    if OWN_CHUNK not in read_text(picture.png):
        pytest.skip("the pictures carry no recipe (imagegen_core.Recipe, to_text), or the settings want none")
    return read_recipe(picture.png)
