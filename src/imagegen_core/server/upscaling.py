"""Enlarging what was drawn or sent, one picture at a time, where the model computes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image, ImageOps

from imagegen_core.errors import InvalidRequestError
from imagegen_core.images.jpeg import encode_jpeg
from imagegen_core.images.png import encode_png
from imagegen_core.images.reading import as_rgb, read_picture, text_of
from imagegen_core.images.recipe import Upscaling, with_upscaling
from imagegen_core.images.upscaler import Shared, Upscaler
from imagegen_core.images.upscaling import upscale
from imagegen_core.plugins.registry import Registry
from imagegen_core.settings import Settings

Format = Literal["png", "jpeg"]
Compute = Callable[..., Any]
"""Runs a function with arguments where the models compute, and returns what it returns."""


@dataclass(frozen=True, slots=True)
class Enlarged:
    """A picture that was enlarged.

    Attributes:
        data: The encoded picture.
        format: What it is encoded as.
        upscaler: What enlarged it.
        passes: How many times.
        scale: What each pass multiplied its sides by.
    """

    data: bytes
    format: Format
    upscaler: str
    passes: int
    scale: int

    @property
    def headers(self) -> dict[str, str]:
        """What the client is told about it."""
        return {
            "X-SR-Model": self.upscaler,
            "X-SR-Passes": str(self.passes),
            "X-SR-Scale-Per-Pass": str(self.scale),
            "X-SR-Format": self.format,
        }


class Enlarging(Protocol):
    """The upscalers that requests can use; see `Upscalers`."""

    def names(self) -> list[str]:
        """What requests can call them."""
        ...

    def enlarge(
        self, source: bytes, passes: int, form: Format = "png", quality: int = 92, name: str | None = None
    ) -> Enlarged:
        """Read a picture, enlarge it, and encode it with its recipe; on any thread."""
        ...

    def enlarge_to(self, source: bytes, wanted: tuple[int, int], name: str, *, crop: bool) -> bytes:
        """Enlarge a picture to a size, as a PNG; on any thread."""
        ...

    def check(self, width: int, height: int, passes: int) -> None:
        """Refuse what would become too large, before any work is done for it."""
        ...


class Upscalers:
    """The upscalers that requests can use, each loaded when it is first asked for."""

    def __init__(self, settings: Settings, registry: Registry, compute: Compute) -> None:
        """Load none yet; what computes goes through `compute`.

        Raises:
            ModelNotFoundError: The configured upscaler is not there.
        """
        self._settings, self._registry, self._compute = settings, registry, compute
        self._default = registry.upscaler(settings.upscaler)
        self._loaded: dict[str, Upscaler] = {}
        self._enlarging = threading.Lock()

    def names(self) -> list[str]:
        """What requests can call them."""
        return sorted({*self._registry.upscalers, self._default.name})

    def enlarge(
        self, source: bytes, passes: int, form: Format = "png", quality: int = 92, name: str | None = None
    ) -> Enlarged:
        """Read a picture, enlarge it, and encode it with its recipe; on any thread.

        Raises:
            PictureError: It cannot be read, or has what RGB has not.
            InvalidRequestError: The result would be too large, or there is no upscaler of that name.
        """
        image = read_picture(source)
        with self._enlarging:
            upscaler = self._upscaler(name)
            self.check(image.width, image.height, passes, upscaler)
            enlarged = upscale(as_rgb(image, "the picture"), upscaler, passes)
        done = Upscaling(upscaler.name, upscaler.scale**passes)
        text = with_upscaling(text_of(image), done, "the picture")
        return Enlarged(encode(enlarged, text, form, quality), form, upscaler.name, passes, upscaler.scale)

    def enlarge_to(self, source: bytes, wanted: tuple[int, int], name: str, *, crop: bool) -> bytes:
        """Enlarge a picture to a size, beyond it by the upscaler and back by interpolation; as a PNG.

        Args:
            source: The picture.
            wanted: Width and height.
            name: The upscaler.
            crop: Whether to cut off what is too much where the proportions differ, rather than to fit it in.

        Raises:
            As `enlarge` raises.
        """
        image = as_rgb(read_picture(source), "the picture")
        self._check_pixels(image.size, wanted)
        with self._enlarging:
            upscaler = self._upscaler(name)
            while image.width < wanted[0] or image.height < wanted[1]:
                self.check(image.width, image.height, 1, upscaler)
                image = upscale(image, upscaler)
                if upscaler.scale == 1:  # it cleans up, and leaves the size to interpolation
                    break
        if crop:
            image = ImageOps.fit(image, wanted, Image.Resampling.LANCZOS)
        elif image.size != wanted:
            image = image.resize(wanted, Image.Resampling.LANCZOS)
        return encode_png(np.asarray(image))

    def check(self, width: int, height: int, passes: int, upscaler: Upscaler | None = None) -> None:
        """Refuse what would become too large, before any work is done for it.

        Raises:
            InvalidRequestError: It would.
        """
        scale = upscaler.scale if upscaler else self._default.scale
        if scale is None:  # only its weights tell, and they are not loaded for this
            return
        self._check_pixels((width, height), (width * scale**passes, height * scale**passes))

    def _check_pixels(self, given: tuple[int, int], wanted: tuple[int, int]) -> None:
        if wanted[0] * wanted[1] > self._settings.max_upscaled_pixels:
            raise InvalidRequestError(
                f"Cannot upscale {given[0]}x{given[1]} to {wanted[0]}x{wanted[1]}: that is more than the "
                f"{self._settings.max_upscaled_pixels / 1e6:.1f} million pixels allowed; take fewer passes or a "
                "smaller picture",
                "magnitude",
            )

    def _upscaler(self, name: str | None) -> Upscaler:
        name = name or self._default.name
        if name not in self._loaded:
            offered: dict[str, Any] = {self._default.name: self._default, **self._registry.upscalers}
            if name not in offered:
                raise InvalidRequestError(f"Unknown upscaler {name[:64]!r}: expected one of {', '.join(offered)}")
            loaded = offered[name].load(self._settings)
            if isinstance(loaded, Shared):
                loaded.compute_through(self._compute)
            self._loaded[name] = loaded
        return self._loaded[name]


def encode(image: Image.Image, text: dict[str, str], form: Format, quality: int) -> bytes:
    """A picture in the format asked for."""
    pixels = np.asarray(image)
    return encode_png(pixels, text) if form == "png" else encode_jpeg(pixels, text, quality)
