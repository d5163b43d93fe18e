"""The contract of every upscaler."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from imagegen_core.images.upscaler import Shared, Upscaler, UpscalerDef
from imagegen_core.parts import completed, works_in_parts
from imagegen_core.plugins.registry import Registry
from imagegen_core.settings import Settings
from imagegen_core.testing.configured import Configured
from imagegen_core.testing.doctor import check_plugin
from imagegen_core.testing.leak_check import left_behind
from imagegen_core.testing.quick import QUICK

_SIZES = ((1, 1), (7, 5), (48, 64), (65, 33))  # height, width
_CALLS = 30
_WARMING_UP = 5
_SAME_COLOUR = 24.0  # levels: a network may differ by this much on average, and still show the same picture


class UpscalerConformance(Configured):
    """The contract of an `Upscaler`, to inherit from: set `upscaler` to its name.

    Attributes:
        upscaler: The upscaler's name in its plugin.
    """

    upscaler: ClassVar[str]

    @pytest.fixture(scope="class")
    @classmethod
    def description(cls) -> UpscalerDef:
        """Return the upscaler's description by its plugin."""
        return Registry.discover().upscaler(cls.upscaler)

    @pytest.fixture(scope="class")
    @classmethod
    def loaded(cls, description: UpscalerDef, settings: Settings) -> Upscaler:
        """Load the upscaler, for all checks."""
        return description.load(settings)

    @QUICK
    def test_plugin_works(self, description: UpscalerDef) -> None:
        """Every command imports every plugin: a plugin that imports torch, prints or is broken harms all of them."""
        check_plugin("upscaler", description.name)

    @QUICK
    def test_upscaler_matches_its_description(self, description: UpscalerDef, loaded: Upscaler) -> None:
        """Lists and limits use the description, before the upscaler is loaded."""
        assert loaded.name == description.name
        assert isinstance(loaded.scale, int)
        assert loaded.scale >= 1
        assert description.scale in (None, loaded.scale)
        assert description.summary.strip(), "the summary is empty: say in one line what it is good for"

    @QUICK
    @pytest.mark.parametrize(("height", "width"), _SIZES)
    def test_width_and_height_grow_by_the_scale(self, loaded: Upscaler, height: int, width: int) -> None:
        """Pictures have any size, down to a single pixel. Callers rely on the size of the result."""
        large = loaded.enlarge(_picture(height, width))
        assert large.shape == (height * loaded.scale, width * loaded.scale, 3)
        assert large.dtype == np.uint8

    @QUICK
    def test_result_resembles_the_input(self, loaded: Upscaler) -> None:
        """Not mirrored, not rotated, channels in order: scaled down again, it is about the original."""
        small = _picture(48, 64)
        shrunk = loaded.enlarge(small).reshape(48, loaded.scale, 64, loaded.scale, 3).mean(axis=(1, 3))
        assert np.abs(shrunk - small).mean() < _SAME_COLOUR, "the result does not look like the input"

    @QUICK
    def test_equal_pictures_give_equal_bytes(self, loaded: Upscaler) -> None:
        """A result can be reproduced, on any thread."""
        small = _picture(33, 40)
        first = loaded.enlarge(small)
        with ThreadPoolExecutor(1) as threads:
            again = threads.submit(loaded.enlarge, small).result()
        assert np.array_equal(first, again)

    @QUICK
    def test_input_is_not_modified(self, loaded: Upscaler) -> None:
        """The original is stored with its enlargement, so it must not change. Pillow's own arrays are read-only."""
        small = _picture(16, 24)
        before = small.copy()
        small.flags.writeable = False
        loaded.enlarge(small)
        assert np.array_equal(small, before)

    def test_computation_uses_the_given_function(self, loaded: Upscaler) -> None:
        """A network runs on the model's thread, in turn with the model: in parallel, they slow each other down."""
        if not isinstance(loaded, Shared):
            pytest.skip("it computes where it is called (imagegen_core.images.upscaler.Shared)")
        calls: list[Callable[..., Any]] = []

        def run(function: Callable[..., Any], *arguments: Any) -> Any:
            calls.append(function)
            return function(*arguments)

        before = loaded.enlarge(_picture(16, 24))
        loaded.compute_through(run)
        assert np.array_equal(loaded.enlarge(_picture(16, 24)), before)
        assert calls, "nothing went through the function that it was given"

    def test_parts_make_the_same_picture(self, loaded: Upscaler) -> None:
        """Between the stages of a drawing, an upscaler works in parts, and the picture must be the same."""
        if not works_in_parts(loaded, "enlarge"):
            pytest.skip("it enlarges in one piece (imagegen_core.images.upscaler.Upscaler)")
        in_parts: Any = loaded
        small = _picture(33, 40)
        assert np.array_equal(completed(in_parts.enlarge_in_parts(small)), loaded.enlarge(small))

    def test_many_pictures_leak_nothing(self, loaded: Upscaler) -> None:
        """A server enlarges for weeks: a leak per picture will end it one day."""
        small = _picture(16, 24)
        grown = left_behind(lambda _: loaded.enlarge(small), _CALLS, _WARMING_UP)
        assert not grown, f"after {_CALLS} pictures there are {', '.join(grown)}"


def _picture(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Make a picture whose colours differ from left to right, from top to bottom and between channels."""
    y, x = np.mgrid[0:height, 0:width]
    channels = (x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), np.full_like(x, 60))
    return np.stack(channels, axis=-1).astype(np.uint8)
