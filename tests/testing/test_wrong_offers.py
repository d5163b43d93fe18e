"""The kits for stores and upscalers catch what is wrong, each by the check that names it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from imagegen_core import Settings, StorageError, StoreDef, UpscalerDef
from imagegen_core.storage.memory import MemoryStore
from imagegen_core.testing import StoreConformance, UpscalerConformance

Pixels = npt.NDArray[np.uint8]


class Appending(MemoryStore):
    """Writes over what was there, and leaves its end."""

    def put(self, key: str, data: bytes) -> None:
        super().put(key, data + (self.get(key) or b"")[len(data) :])


class Raising(MemoryStore):
    """Takes what is missing for an error."""

    def get(self, key: str) -> bytes | None:
        if (data := super().get(key)) is None:
            raise StorageError("It is not here")
        return data


class Unsure(MemoryStore):
    """Says that it deleted whatever it was asked to."""

    def delete(self, key: str) -> bool:
        super().delete(key)
        return True


class Hoarding(MemoryStore):
    """Takes the limit for ten times as much."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.override(storage_max_items=settings.storage_max_items * 10))


class Littering(MemoryStore):
    """Leaves something of its check, in place of a picture."""

    def check(self) -> None:
        self.put("check", b"works")


class Apart(MemoryStore):
    """Says that others see its pictures, and they do not."""


STORES: dict[type[MemoryStore], Callable[[StoreConformance, Any], None]] = {
    Appending: lambda kit, opened: kit.test_putting_again_replaces_a_longer_picture(opened),
    Raising: lambda kit, opened: kit.test_a_missing_key_is_none(opened),
    Unsure: lambda kit, opened: kit.test_deleting_says_whether_there_was_anything(opened),
    Hoarding: lambda kit, opened: kit.test_no_more_are_kept_than_allowed_and_the_oldest_go(opened),
    Littering: lambda kit, opened: kit.test_a_store_that_works_passes_its_check_and_keeps_nothing_of_it(opened),
    Apart: lambda kit, opened: kit.test_two_stores_in_one_place_share_their_pictures(StoreDef("a", "b", "c:d"), opened),
}


@pytest.mark.parametrize("wrong", STORES, ids=lambda store: store.__name__)
def test_a_wrong_store_is_caught(wrong: type[MemoryStore]) -> None:
    with pytest.raises((AssertionError, StorageError)):
        STORES[wrong](StoreConformance(), lambda **given: wrong(Settings(**given)))


class Upscaler:
    """Doubles, each way as it should be."""

    name = "double"
    scale = 2

    def enlarge(self, pixels: Pixels) -> Pixels:
        return pixels.repeat(2, axis=0).repeat(2, axis=1)


class Turning(Upscaler):
    """Mirrors the picture."""

    def enlarge(self, pixels: Pixels) -> Pixels:
        return super().enlarge(pixels)[:, ::-1]


class Swapping(Upscaler):
    """Takes blue for red, as some libraries have it."""

    def enlarge(self, pixels: Pixels) -> Pixels:
        return super().enlarge(pixels)[..., ::-1]


class Floating(Upscaler):
    """Gives numbers from 0 to 1."""

    def enlarge(self, pixels: Pixels) -> Pixels:
        return super().enlarge(pixels) / 255  # type: ignore[return-value]


class Tiling(Upscaler):
    """Only knows whole tiles of 8 pixels."""

    def enlarge(self, pixels: Pixels) -> Pixels:
        height, width = (side // 8 * 8 for side in pixels.shape[:2])
        return super().enlarge(pixels[:height, :width])


class InPlace(Upscaler):
    """Works on what it was given."""

    def enlarge(self, pixels: Pixels) -> Pixels:
        pixels += 1
        return super().enlarge(pixels)


class Noisy(Upscaler):
    """Adds grain, another one each time."""

    def enlarge(self, pixels: Pixels) -> Pixels:
        large = super().enlarge(pixels)
        return large ^ np.random.default_rng().integers(0, 2, large.shape, np.uint8)


class Collecting(Upscaler):
    """Keeps each picture."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []

    def enlarge(self, pixels: Pixels) -> Pixels:
        written = io.BytesIO()
        Image.fromarray(pixels).save(written, format="BMP")
        self.kept.append(written.getvalue())
        return super().enlarge(pixels)


class Misnamed(Upscaler):
    """Is not called what its description says."""

    name = "triple"


DESCRIPTION = UpscalerDef(name="double", summary="doubles", scale=2, factory="a:B")
UPSCALERS: dict[type[Upscaler], Callable[[UpscalerConformance, Any], None]] = {
    Turning: lambda kit, wrong: kit.test_it_is_the_same_picture(wrong),
    Swapping: lambda kit, wrong: kit.test_it_is_the_same_picture(wrong),
    Floating: lambda kit, wrong: kit.test_both_sides_grow_by_its_scale(wrong, 48, 64),
    Tiling: lambda kit, wrong: kit.test_both_sides_grow_by_its_scale(wrong, 7, 5),
    InPlace: lambda kit, wrong: kit.test_what_is_given_stays_as_it_is(wrong),
    Noisy: lambda kit, wrong: kit.test_the_same_picture_gives_the_same_bytes(wrong),
    Collecting: lambda kit, wrong: kit.test_many_pictures_leave_nothing_behind(wrong),
    Misnamed: lambda kit, wrong: kit.test_it_is_what_its_description_says(DESCRIPTION, wrong),
}


@pytest.mark.parametrize("wrong", UPSCALERS, ids=lambda upscaler: upscaler.__name__)
def test_a_wrong_upscaler_is_caught(wrong: type[Upscaler]) -> None:
    UPSCALERS[wrong](UpscalerConformance(), Upscaler())
    with pytest.raises((AssertionError, ValueError)):
        UPSCALERS[wrong](UpscalerConformance(), wrong())
