"""The contract of every style."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import pytest

from imagegen_core.errors import ImagegenError
from imagegen_core.job import Job
from imagegen_core.models.inspect import describe
from imagegen_core.picture import Picture
from imagegen_core.plugins.registry import Registry
from imagegen_core.request import GenerateRequest, StyleLoraRequest
from imagegen_core.settings import Settings
from imagegen_core.shortcuts import load_worker
from imagegen_core.styles import StyleDef
from imagegen_core.testing.configured import Configured
from imagegen_core.testing.doctor import check_plugin
from imagegen_core.testing.quick import QUICK
from imagegen_core.worker import Worker


class StyleConformance(Configured):
    """The contract of a `StyleDef`, to inherit from: set `style` to its id.

    The style is drawn with the configured checkpoint, if it fits; override the fixture ``settings`` to choose one.

    Attributes:
        style: The style's id.
    """

    style: ClassVar[str]

    @pytest.fixture(scope="class")
    @classmethod
    def description(cls) -> StyleDef:
        """Return the style's description by its plugin."""
        styles = Registry.discover().styles
        assert cls.style in styles, f"no plugin offers the style {cls.style!r}: there are {', '.join(styles) or 'none'}"
        return styles[cls.style]

    @pytest.fixture(scope="class")
    @classmethod
    def worker(cls, settings: Settings) -> Worker:
        """Make a worker with a fitting checkpoint for the style."""
        try:
            worker = load_worker(settings=settings)
        except ImagegenError as error:
            pytest.skip(f"there is nothing to draw with: {error}")
        styles = getattr(worker, "styles", {})
        if cls.style not in styles:
            pytest.skip("the configured backend knows no styles")
        if refusal := styles[cls.style].refusal:
            pytest.skip(f"the configured checkpoint does not take it: {refusal}")
        return worker

    @QUICK
    def test_plugin_works(self, description: StyleDef) -> None:
        """Every command imports every plugin: a plugin that imports torch, prints or is broken harms all of them."""
        check_plugin("style", description.id or description.adapter_name)

    @QUICK
    def test_the_description_is_complete(self, description: StyleDef) -> None:
        """Users choose by the title, and a slider has one position per level."""
        title = description.title or description.id or description.adapter_name
        assert title.strip(), "the title is empty: say what pictures look like in the style"
        assert description.levels, "there are no levels: give at least one strength"
        assert all(math.isfinite(level) and level for level in description.levels), "a level of 0 does nothing"
        assert description.adapter_name.isidentifier(), "adapter_name stands inside the network: letters, digits and _"

    @QUICK
    def test_adapter_names_are_unique(self, description: StyleDef) -> None:
        """Two adapters with one name in one network are one adapter: the wrong one for half of the requests."""
        named = [
            style_id
            for style_id, style in Registry.discover().styles.items()
            if style.adapter_name == description.adapter_name
        ]
        assert named == [description.id or description.adapter_name]

    @QUICK
    def test_the_file_is_a_lora(self, description: StyleDef) -> None:
        """The file is found from any working directory, and its header states its kind."""
        path = Path(description.lora_path)
        assert path.is_absolute(), (
            f"lora_path is relative: put {path} beside the plugin's module, and its folder before it"
        )
        lora = describe(path)
        assert lora.kind == "lora", f"{path} is of the kind {lora.kind}"
        assert description.required_cross_attention_dim in (None, lora.cross_attention_dim)

    def test_each_level_gives_another_picture(self, description: StyleDef, worker: Worker) -> None:
        """A style must make a difference, and must not affect the next picture."""
        plain = self._draw(worker, 0)
        pictures = [self._draw(worker, level) for level in range(1, len(description.levels) + 1)]
        assert len({plain, *pictures}) == len(pictures) + 1, "two levels, or none and one, draw the same picture"
        assert self._draw(worker, 0) == plain, "the style was not taken off again"

    def _draw(self, worker: Worker, level: int) -> bytes:
        style = StyleLoraRequest(style=self.style, level=level)
        request = GenerateRequest(prompt="a red lake", seed=1, num_inference_steps=2, size="64x64", style_lora=style)
        return Picture(*worker.run_job_with_latents(Job(req=request))).image.tobytes()
