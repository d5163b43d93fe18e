"""Upscale pictures, one at a time, on the models' compute threads."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from PIL import Image, ImageOps

from imagegen_core.errors import InvalidRequestError
from imagegen_core.images.lossy import encode_lossy
from imagegen_core.images.png import write_png
from imagegen_core.images.recipe import Upscaling, with_upscaling
from imagegen_core.images.upscaler import Shared, Upscaler
from imagegen_core.images.upscaling import upscale
from imagegen_core.picture_files.decode import PictureFile, as_rgb
from imagegen_core.plugins.registry import Registry
from imagegen_core.settings import Settings

if TYPE_CHECKING:
    from typing_extensions import Buffer

Format = Literal["png", "jpeg"]
Compute = Callable[..., Any]
"""Runs a function with arguments on the models' compute threads, and returns its result."""


@dataclass(frozen=True, slots=True)
class Enlarged:
    """An upscaled picture.

    Attributes:
        data: The encoded picture.
        format: Encoding of the picture.
        upscaler: Name of the upscaler.
        passes: Number of upscaler passes.
        scale: Scale factor of width and height in each pass.
    """

    data: bytes
    format: Format
    upscaler: str
    passes: int
    scale: int


class UpscalerHost(Protocol):
    """The upscalers for requests; see `Upscalers`.

    Attributes:
        together: Maximum number of pictures to upscale at the same time.
    """

    together: int

    def names(self) -> list[str]:
        """Return the names of the upscalers."""
        ...

    def enlarge(
        self, source: bytes, passes: int, form: Format, quality: int, until: Future[Any] | None = None
    ) -> Enlarged:
        """Decode a picture, upscale it, and encode it with its recipe; safe on any thread."""
        ...

    def enlarge_to(
        self, source: bytes, wanted: tuple[int, int], name: str, *, crop: bool, until: Future[Any] | None = None
    ) -> bytes:
        """Upscale a picture to a given size, and return a PNG; safe on any thread."""
        ...

    def check(self, width: int, height: int, passes: int) -> None:
        """Refuse a result that would be too large, before any work."""
        ...


class _Checked(io.BytesIO):
    """A buffer that calls `check` before each write."""

    def __init__(self, check: Callable[[], None]) -> None:
        super().__init__()
        self._check = check

    def write(self, data: Buffer, /) -> int:
        self._check()
        return super().write(data)


class Upscalers:
    """The upscalers for requests; each is loaded on first use.

    Attributes:
        together: 1, because upscalers share the models' compute threads.
    """

    together = 1

    def __init__(self, settings: Settings, registry: Registry, compute: Compute) -> None:
        """Find the configured upscaler; load none yet. All computation goes through `compute`.

        Raises:
            ModelNotFoundError: The configured upscaler does not exist.
        """
        self._settings, self._registry, self._compute = settings, registry, compute
        self._default = registry.upscaler(settings.upscaler)
        self._loaded: dict[str, Upscaler] = {}
        self._enlarging = threading.Lock()
        self._until: Future[Any] | None = None  # the `until` of the picture in progress

    def names(self) -> list[str]:
        """Return the names of the upscalers."""
        return sorted({*self._registry.upscalers, self._default.name})

    def enlarge(
        self, source: bytes, passes: int, form: Format, quality: int, until: Future[Any] | None = None
    ) -> Enlarged:
        """Decode a picture, upscale it with the configured upscaler, and encode it with its recipe.

        This is safe on any thread.

        Args:
            source: The encoded picture.
            passes: Number of upscaler passes.
            form: Encoding of the result.
            quality: JPEG quality, 1 to 100.
            until: A future; when it is done, the work stops at the next tile or pass.

        Raises:
            PictureError: The picture cannot be decoded, or cannot be converted to RGB.
            InvalidRequestError: The result would be too large.
            CancelledError: `until` is done.
        """
        file = PictureFile.read(source)
        with self._wanted(until):
            upscaler = self._upscaler(self._default.name)
            self.check(*file.size, passes, upscaler)
            image = as_rgb(file.decode(), "the picture")
            for _ in range(passes):
                self._check_wanted()
                image = upscale(image, upscaler)
            self._check_wanted()
            text = with_upscaling(file.text, Upscaling(upscaler.name, upscaler.scale**passes), "the picture")
            data = encode_lossy(np.asarray(image), "jpeg", quality, text) if form == "jpeg" else self._png(image, text)
            return Enlarged(data, form, upscaler.name, passes, upscaler.scale)

    def enlarge_to(
        self, source: bytes, wanted: tuple[int, int], name: str, *, crop: bool, until: Future[Any] | None = None
    ) -> bytes:
        """Upscale a picture until it is at least the given size, resize it to that size, and return a PNG.

        Args:
            source: The encoded picture.
            wanted: Width and height in pixels.
            name: The upscaler.
            crop: Whether to crop the picture if the proportions differ; False stretches it.
            until: See `enlarge`.

        Raises:
            The errors of `enlarge`.
        """
        file = PictureFile.read(source)
        self._check_pixels(file.size, wanted)
        self._check_pixels(file.size, file.size)
        with self._wanted(until):
            upscaler = self._upscaler(name)
            image = as_rgb(file.decode(), "the picture")
            while image.width < wanted[0] or image.height < wanted[1]:
                self._check_wanted()
                self.check(image.width, image.height, 1, upscaler)
                image = upscale(image, upscaler)
                if upscaler.scale == 1:  # it only restores the picture; interpolation sets the size
                    break
            self._check_wanted()
            if crop:
                image = ImageOps.fit(image, wanted, Image.Resampling.LANCZOS)
            elif image.size != wanted:
                image = image.resize(wanted, Image.Resampling.LANCZOS)
            return self._png(image)

    def check(self, width: int, height: int, passes: int, upscaler: Upscaler | None = None) -> None:
        """Refuse a result that would be too large, before any work.

        Raises:
            InvalidRequestError: The result would be too large.
        """
        scale = upscaler.scale if upscaler else self._default.scale
        if scale is None:  # only the weights tell the scale, and they are not loaded for this check
            return
        self._check_pixels((width, height), (width * scale**passes, height * scale**passes))

    @contextmanager
    def _wanted(self, until: Future[Any] | None) -> Iterator[None]:
        """Hold the lock for one picture, and stop the work when `until` is done."""
        with self._enlarging:
            self._until = until
            try:
                yield
            finally:
                self._until = None

    def _check_wanted(self) -> None:
        if self._until is not None and self._until.done():
            raise CancelledError

    def _compute_wanted(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Compute a tile, unless `until` is done."""
        self._check_wanted()
        return self._compute(function, *arguments)

    def _png(self, image: Image.Image, text: Mapping[str, str] | None = None) -> bytes:
        """Encode a PNG, and stop if `until` is done, because a large picture takes seconds."""
        buffer = _Checked(self._check_wanted)
        write_png(buffer, np.asarray(image), text)
        return buffer.getvalue()

    def _check_pixels(self, given: tuple[int, int], wanted: tuple[int, int]) -> None:
        if wanted[0] * wanted[1] > self._settings.max_upscaled_pixels:
            raise InvalidRequestError(
                f"Cannot upscale {given[0]}x{given[1]} to {wanted[0]}x{wanted[1]}: that is more than the "
                f"{self._settings.max_upscaled_pixels / 1e6:.1f} million pixels allowed; take fewer passes or a "
                "smaller picture",
                "magnitude",
            )

    def _upscaler(self, name: str) -> Upscaler:
        if name not in self._loaded:
            offered: dict[str, Any] = {self._default.name: self._default, **self._registry.upscalers}
            if name not in offered:
                raise InvalidRequestError(f"Unknown upscaler {name[:64]!r}: expected one of {', '.join(offered)}")
            loaded = offered[name].load(self._settings)
            if isinstance(loaded, Shared):
                loaded.compute_through(self._compute_wanted)
            self._loaded[name] = loaded
        return self._loaded[name]
