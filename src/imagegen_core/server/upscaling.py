"""Enlarging what was drawn or sent, one picture at a time, where the model computes."""

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
from imagegen_core.images.reading import PictureFile, as_rgb
from imagegen_core.images.recipe import Upscaling, with_upscaling
from imagegen_core.images.upscaler import Shared, Upscaler
from imagegen_core.images.upscaling import upscale
from imagegen_core.plugins.registry import Registry
from imagegen_core.server.headers import header_value
from imagegen_core.settings import Settings

if TYPE_CHECKING:
    from typing_extensions import Buffer

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
            "X-SR-Model": header_value(self.upscaler),
            "X-SR-Passes": str(self.passes),
            "X-SR-Scale-Per-Pass": str(self.scale),
            "X-SR-Format": self.format,
        }


class Enlarging(Protocol):
    """The upscalers that requests can use; see `Upscalers`.

    Attributes:
        together: How many pictures can be enlarged at the same time.
    """

    together: int

    def names(self) -> list[str]:
        """What requests can call them."""
        ...

    def enlarge(
        self,
        source: bytes,
        passes: int,
        form: Format = "png",
        quality: int = 92,
        name: str | None = None,
        until: Future[Any] | None = None,
    ) -> Enlarged:
        """Read a picture, enlarge it, and encode it with its recipe; on any thread."""
        ...

    def enlarge_to(
        self, source: bytes, wanted: tuple[int, int], name: str, *, crop: bool, until: Future[Any] | None = None
    ) -> bytes:
        """Enlarge a picture to a size, as a PNG; on any thread."""
        ...

    def check(self, width: int, height: int, passes: int) -> None:
        """Refuse what would become too large, before any work is done for it."""
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
    """The upscalers that requests can use, each loaded when it is first asked for.

    Attributes:
        together: 1, as they compute where the models do.
    """

    together = 1

    def __init__(self, settings: Settings, registry: Registry, compute: Compute) -> None:
        """Load none yet; what computes goes through `compute`.

        Raises:
            ModelNotFoundError: The configured upscaler is not there.
        """
        self._settings, self._registry, self._compute = settings, registry, compute
        self._default = registry.upscaler(settings.upscaler)
        self._loaded: dict[str, Upscaler] = {}
        self._enlarging = threading.Lock()
        self._until: Future[Any] | None = None  # of the picture that is enlarged at the moment

    def names(self) -> list[str]:
        """What requests can call them."""
        return sorted({*self._registry.upscalers, self._default.name})

    def enlarge(
        self,
        source: bytes,
        passes: int,
        form: Format = "png",
        quality: int = 92,
        name: str | None = None,
        until: Future[Any] | None = None,
    ) -> Enlarged:
        """Read a picture, enlarge it, and encode it with its recipe; on any thread.

        Args:
            source: The picture.
            passes: How many times.
            form: What the result is encoded as.
            quality: JPEG's, 1 to 100.
            name: The upscaler; None is the configured one.
            until: Once it is done, nobody waits: the work ends at the next tile or pass.

        Raises:
            PictureError: It cannot be read, or has what RGB has not.
            InvalidRequestError: The result would be too large, or there is no upscaler of that name.
            CancelledError: Nobody waits any more.
        """
        file = PictureFile.read(source)
        with self._wanted(until):
            upscaler = self._upscaler(name)
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
        """Enlarge a picture to a size, beyond it by the upscaler and back by interpolation; as a PNG.

        Args:
            source: The picture.
            wanted: Width and height.
            name: The upscaler.
            crop: Whether to cut off what is too much where the proportions differ, rather than to fit it in.
            until: As `enlarge` takes it.

        Raises:
            As `enlarge` raises.
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
                if upscaler.scale == 1:  # it cleans up, and leaves the size to interpolation
                    break
            self._check_wanted()
            if crop:
                image = ImageOps.fit(image, wanted, Image.Resampling.LANCZOS)
            elif image.size != wanted:
                image = image.resize(wanted, Image.Resampling.LANCZOS)
            return self._png(image)

    def check(self, width: int, height: int, passes: int, upscaler: Upscaler | None = None) -> None:
        """Refuse what would become too large, before any work is done for it.

        Raises:
            InvalidRequestError: It would.
        """
        scale = upscaler.scale if upscaler else self._default.scale
        if scale is None:  # only its weights tell, and they are not loaded for this
            return
        self._check_pixels((width, height), (width * scale**passes, height * scale**passes))

    @contextmanager
    def _wanted(self, until: Future[Any] | None) -> Iterator[None]:
        """Have the place to enlarge a picture, one at a time, for as long as somebody waits for it."""
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
        """Compute a tile, unless nobody waits for the picture any more."""
        self._check_wanted()
        return self._compute(function, *arguments)

    def _png(self, image: Image.Image, text: Mapping[str, str] | None = None) -> bytes:
        """Encode a picture, unless nobody waits for it any more: a large one takes seconds."""
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

    def _upscaler(self, name: str | None) -> Upscaler:
        name = name or self._default.name
        if name not in self._loaded:
            offered: dict[str, Any] = {self._default.name: self._default, **self._registry.upscalers}
            if name not in offered:
                raise InvalidRequestError(f"Unknown upscaler {name[:64]!r}: expected one of {', '.join(offered)}")
            loaded = offered[name].load(self._settings)
            if isinstance(loaded, Shared):
                loaded.compute_through(self._compute_wanted)
            self._loaded[name] = loaded
        return self._loaded[name]
