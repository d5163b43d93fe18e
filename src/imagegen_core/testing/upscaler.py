"""What every upscaler promises."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from imagegen_core.images.upscaler import Shared, Upscaler, UpscalerDef
from imagegen_core.plugins.registry import Registry
from imagegen_core.settings import Settings
from imagegen_core.testing.configured import Configured
from imagegen_core.testing.doctor import check_plugin
from imagegen_core.testing.leak_check import left_behind

_SIZES = ((1, 1), (7, 5), (48, 64), (65, 33))  # height, width
_CALLS = 30
_WARMING_UP = 5
_SAME_COLOUR = 24.0  # levels: a network may be off by this much on the average, and is not another picture


class UpscalerConformance(Configured):
    """The contract of an `Upscaler`, to inherit from: name the `upscaler`.

    Attributes:
        upscaler: The name that the plugin gives it.
    """

    upscaler: ClassVar[str]

    @pytest.fixture(scope="class")
    @classmethod
    def description(cls) -> UpscalerDef:
        """The upscaler as its plugin describes it."""
        return Registry.discover().upscaler(cls.upscaler)

    @pytest.fixture(scope="class")
    @classmethod
    def loaded(cls, description: UpscalerDef, settings: Settings) -> Upscaler:
        """The upscaler, for all checks."""
        return description.load(settings)

    def test_the_plugin_is_well(self, description: UpscalerDef) -> None:
        """Every command imports every plugin: one that brings torch, prints or is broken harms all of them."""
        check_plugin("upscaler", description.name)

    def test_it_is_what_its_description_says(self, description: UpscalerDef, loaded: Upscaler) -> None:
        """Lists and limits are reckoned from the description, before the upscaler is loaded."""
        assert loaded.name == description.name
        assert isinstance(loaded.scale, int)
        assert loaded.scale >= 1
        assert description.scale in (None, loaded.scale)
        assert description.summary.strip(), "the summary is empty: say in one line what it is good for"

    @pytest.mark.parametrize(("height", "width"), _SIZES)
    def test_both_sides_grow_by_its_scale(self, loaded: Upscaler, height: int, width: int) -> None:
        """Pictures of any size come, down to a single pixel, and a result of another size breaks whoever reckoned."""
        large = loaded.enlarge(_picture(height, width))
        assert large.shape == (height * loaded.scale, width * loaded.scale, 3)
        assert large.dtype == np.uint8

    def test_it_is_the_same_picture(self, loaded: Upscaler) -> None:
        """Not mirrored, not turned, its red not its blue: shrunk again, it is about what it was."""
        small = _picture(48, 64)
        shrunk = loaded.enlarge(small).reshape(48, loaded.scale, 64, loaded.scale, 3).mean(axis=(1, 3))
        assert np.abs(shrunk - small).mean() < _SAME_COLOUR, "the result does not look like what was given"

    def test_the_same_picture_gives_the_same_bytes(self, loaded: Upscaler) -> None:
        """A result can be had again, on whichever thread."""
        small = _picture(33, 40)
        first = loaded.enlarge(small)
        with ThreadPoolExecutor(1) as threads:
            again = threads.submit(loaded.enlarge, small).result()
        assert np.array_equal(first, again)

    def test_what_is_given_stays_as_it_is(self, loaded: Upscaler) -> None:
        """The picture that was drawn is stored beside its enlargement; Pillow's own arrays cannot be written to."""
        small = _picture(16, 24)
        before = small.copy()
        small.flags.writeable = False
        loaded.enlarge(small)
        assert np.array_equal(small, before)

    def test_it_computes_where_it_is_told_to(self, loaded: Upscaler) -> None:
        """A network takes its turns on the model's thread: two that compute at a time slow each other down."""
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

    def test_many_pictures_leave_nothing_behind(self, loaded: Upscaler) -> None:
        """A server enlarges for weeks: what each picture leaves behind ends it one day."""
        small = _picture(16, 24)
        grown = left_behind(lambda _: loaded.enlarge(small), _CALLS, _WARMING_UP)
        assert not grown, f"after {_CALLS} pictures there are {', '.join(grown)}"


def _picture(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Colours that differ from left to right, from top to bottom and from channel to channel."""
    y, x = np.mgrid[0:height, 0:width]
    channels = (x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), np.full_like(x, 60))
    return np.stack(channels, axis=-1).astype(np.uint8)
