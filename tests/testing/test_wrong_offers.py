"""The kits for stores and upscalers catch each fault with the matching check."""

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
    """Overwrite a picture, but keep the end of a longer one."""

    def put(self, key: str, data: bytes) -> None:
        super().put(key, data + (self.get(key) or b"")[len(data) :])


class Raising(MemoryStore):
    """Raise an error for a missing picture."""

    def get(self, key: str) -> bytes | None:
        if (data := super().get(key)) is None:
            raise StorageError("It is not here")
        return data


class Unsure(MemoryStore):
    """Report every deletion as done."""

    def delete(self, key: str) -> bool:
        super().delete(key)
        return True


class Hoarding(MemoryStore):
    """Keep ten times as many pictures as allowed."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.override(storage_max_items=settings.storage_max_items * 10))


class Littering(MemoryStore):
    """Keep the check's data, which takes the place of a picture."""

    def check(self) -> None:
        self.put("check", b"works")


class Apart(MemoryStore):
    """Claim to share pictures with other stores, but do not share them."""


STORES: dict[type[MemoryStore], Callable[[StoreConformance, Any], None]] = {
    Appending: lambda kit, opened: kit.test_put_replaces_a_longer_picture(opened),
    Raising: lambda kit, opened: kit.test_a_missing_key_is_none(opened),
    Unsure: lambda kit, opened: kit.test_delete_returns_whether_the_key_existed(opened),
    Hoarding: lambda kit, opened: kit.test_the_oldest_pictures_are_removed_beyond_the_limit(opened),
    Littering: lambda kit, opened: kit.test_the_check_passes_and_leaves_nothing(opened),
    Apart: lambda kit, opened: kit.test_two_stores_share_pictures(StoreDef("a", "b", "c:d"), opened),
}


@pytest.mark.parametrize("store", STORES, ids=lambda store: store.__name__)
def test_a_wrong_store_is_caught(store: type[MemoryStore]) -> None:
    with pytest.raises((AssertionError, StorageError)):
        STORES[store](StoreConformance(), lambda **options: store(Settings(**options)))


class Upscaler:
    """Double both sides correctly."""

    name = "double"
    scale = 2

    def enlarge(self, pixels: Pixels) -> Pixels:
        return pixels.repeat(2, axis=0).repeat(2, axis=1)


class Turning(Upscaler):
    """Mirror the picture."""

    def enlarge(self, pixels: Pixels) -> Pixels:
        return super().enlarge(pixels)[:, ::-1]


class Swapping(Upscaler):
    """Swap red and blue, like some libraries."""

    def enlarge(self, pixels: Pixels) -> Pixels:
        return super().enlarge(pixels)[..., ::-1]


class Floating(Upscaler):
    """Return numbers from 0 to 1."""

    def enlarge(self, pixels: Pixels) -> Pixels:
        return super().enlarge(pixels) / 255  # type: ignore[return-value]


class Tiling(Upscaler):
    """Enlarge only whole tiles of 8 pixels."""

    def enlarge(self, pixels: Pixels) -> Pixels:
        height, width = (side // 8 * 8 for side in pixels.shape[:2])
        return super().enlarge(pixels[:height, :width])


class InPlace(Upscaler):
    """Change the given pixels."""

    def enlarge(self, pixels: Pixels) -> Pixels:
        pixels += 1
        return super().enlarge(pixels)


class Noisy(Upscaler):
    """Add different grain each time."""

    def enlarge(self, pixels: Pixels) -> Pixels:
        large = super().enlarge(pixels)
        return large ^ np.random.default_rng().integers(0, 2, large.shape, np.uint8)


class Collecting(Upscaler):
    """Keep each picture in memory."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []

    def enlarge(self, pixels: Pixels) -> Pixels:
        written = io.BytesIO()
        Image.fromarray(pixels).save(written, format="BMP")
        self.kept.append(written.getvalue())
        return super().enlarge(pixels)


class Misnamed(Upscaler):
    """Have a different name than the description."""

    name = "triple"


DESCRIPTION = UpscalerDef(name="double", summary="doubles", scale=2, factory="a:B")
UPSCALERS: dict[type[Upscaler], Callable[[UpscalerConformance, Any], None]] = {
    Turning: lambda kit, wrong: kit.test_result_resembles_the_input(wrong),
    Swapping: lambda kit, wrong: kit.test_result_resembles_the_input(wrong),
    Floating: lambda kit, wrong: kit.test_width_and_height_grow_by_the_scale(wrong, 48, 64),
    Tiling: lambda kit, wrong: kit.test_width_and_height_grow_by_the_scale(wrong, 7, 5),
    InPlace: lambda kit, wrong: kit.test_input_is_not_modified(wrong),
    Noisy: lambda kit, wrong: kit.test_equal_pictures_give_equal_bytes(wrong),
    Collecting: lambda kit, wrong: kit.test_many_pictures_leak_nothing(wrong),
    Misnamed: lambda kit, wrong: kit.test_upscaler_matches_its_description(DESCRIPTION, wrong),
}


@pytest.mark.parametrize("upscaler", UPSCALERS, ids=lambda upscaler: upscaler.__name__)
def test_a_wrong_upscaler_is_caught(upscaler: type[Upscaler]) -> None:
    UPSCALERS[upscaler](UpscalerConformance(), Upscaler())
    with pytest.raises((AssertionError, ValueError)):
        UPSCALERS[upscaler](UpscalerConformance(), upscaler())
