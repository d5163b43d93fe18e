"""Enlarge the picture of a stage for the next stage, in parts."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from imagegen_core.diffusion.canvas import Canvas
from imagegen_core.diffusion.upscaling import NetworkUpscaler
from imagegen_core.distributions import installed_version
from imagegen_core.errors import ImagegenError, InvalidRequestError
from imagegen_core.images.upscaler import LANCZOS, Upscaler, UpscalerDef
from imagegen_core.parts import Parts, awaited, works_in_parts
from imagegen_core.picture_files.decode import MAX_PIXELS
from imagegen_core.plugins.registry import Registry
from imagegen_core.request import Size
from imagegen_core.request.checks import shown
from imagegen_core.settings import Settings

if TYPE_CHECKING:
    import numpy.typing as npt

_FIELD = "hires.upscaler"
_HASH_DIGITS = 10
_LIBRARY = "spandrel"


@dataclass(frozen=True, slots=True)
class LoadedUpscaler:
    """An upscaler for stages.

    Attributes:
        upscaler: The upscaler; None is plain Lanczos interpolation to the exact size.
        digest: Ten hexadecimal digits of the SHA-256 of its weights' file; None without a file.
        versions: The versions of the libraries that compute it, in addition to the worker's.
    """

    upscaler: Upscaler | None
    digest: str | None
    versions: dict[str, str]

    def check(self, first: Size, last: Size) -> None:
        """Refuse an enlargement with too many pixels on the way.

        Raises:
            InvalidRequestError: A pass has more than `MAX_PIXELS`.
        """
        width, height = first.width, first.height
        while self.upscaler is not None and _is_smaller(width, height, last):
            width, height = width * self.upscaler.scale, height * self.upscaler.scale
            if width * height > MAX_PIXELS:
                raise InvalidRequestError(
                    f"Invalid {_FIELD} {shown(self.upscaler.name)}: from {first} it makes {width}x{height} pixels "
                    f"on the way to {last}, and {MAX_PIXELS // 10**6} million are allowed; take a smaller size",
                    _FIELD,
                )
            if self.upscaler.scale == 1:
                return

    def needed_bytes(self, first: Size, last: Size) -> int:
        """Estimate the memory of its network's weights and of a tile, in bytes; 0 without a network."""
        if not isinstance(self.upscaler, NetworkUpscaler) or not _is_smaller(first.width, first.height, last):
            return 0
        return self.upscaler.weight_bytes + self.upscaler.tile_bytes(first.width, first.height)


class StageUpscaling:
    """Loads a worker's upscalers on first use, and enlarges pictures between two stages.

    Networks compute on the worker's thread, some layers at a time. Upscalers without `enlarge_in_parts` and Pillow have
    a thread of their own.
    """

    def __init__(self, settings: Settings, registry: Registry) -> None:
        """Keep the settings and the plugins; load nothing yet."""
        self._settings, self._registry = settings, registry
        self._loaded: dict[str, LoadedUpscaler] = {}
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="imagegen-enlarging")

    def load(self, name: str) -> Parts[LoadedUpscaler]:
        """Load an upscaler, unless it is loaded.

        Args:
            name: A plugin's upscaler, ``lanczos``, or the upscaler of `Settings.upscaler`. It is never a path, because
                clients of a server name it.

        Raises:
            InvalidRequestError: There is no such upscaler.
            ImagegenError: The upscaler cannot be used here.
        """
        if name not in self._loaded:
            self._loaded[name] = yield from awaited(self._threads.submit(self._load, self._described(name)))
        return self._loaded[name]

    def identities(self) -> dict[str, str]:
        """Return the hash of the configured upscaler's file, and the versions of those of plugins, by name.

        Without the configured file there is nothing: a request that names it is refused.
        """
        try:
            offered = self._offered()
        except ImagegenError:
            return {}
        found = {f"upscaler {name}": self._identity(offer) for name, offer in offered.items() if offer is not LANCZOS}
        library = installed_version(_LIBRARY) if any(offer.weights for offer in offered.values()) else None
        return found | ({} if library is None else {_LIBRARY: library})

    @property
    def memory_bytes(self) -> int:
        """The memory of the loaded networks' weights, in bytes."""
        upscalers = [loaded.upscaler for loaded in [*self._loaded.values()]]
        return sum(upscaler.weight_bytes for upscaler in upscalers if isinstance(upscaler, NetworkUpscaler))

    def loaded(self, name: str) -> LoadedUpscaler:
        """Return an upscaler that is loaded."""
        return self._loaded[name]

    def enlarge(self, pixels: npt.NDArray[np.uint8], loaded: LoadedUpscaler, size: Size) -> Parts[Any]:
        """Enlarge a picture until it covers a size, and resize it to this size by Lanczos interpolation, as A1111 does.

        Args:
            pixels: The picture, [height, width, 3].
            loaded: The upscaler.
            size: The size of the result.

        Returns:
            Values from -1 to 1, [1, 3, height, width], in fp32.
        """
        upscaler = loaded.upscaler
        while upscaler is not None and _is_smaller(pixels.shape[1], pixels.shape[0], size):
            if works_in_parts(upscaler, "enlarge"):
                network: Any = upscaler
                pixels = yield from network.enlarge_in_parts(pixels)
            else:
                pixels = yield from awaited(self._threads.submit(upscaler.enlarge, pixels))
            if upscaler.scale == 1:  # it only restores the picture; interpolation sets the size
                break
        return (yield from awaited(self._threads.submit(_values, pixels, size)))

    def _offered(self) -> dict[str, UpscalerDef]:
        registry, configured = self._registry, self._settings.upscaler
        offered = dict(registry.upscalers)
        if configured is not None and configured not in offered:
            own = registry.upscaler(configured)
            offered[own.name] = own
        return offered

    def _identity(self, offer: UpscalerDef) -> str:
        plugin = self._registry.owner(f"upscaler {offer.name}")
        if plugin is not None:
            return f"{plugin.distribution} {plugin.version}"
        return _digest(offer.weights) if offer.weights is not None and offer.weights.is_file() else "missing"

    def _described(self, name: str) -> UpscalerDef:
        offered = self._offered()
        if name in offered:
            return offered[name]
        raise InvalidRequestError(
            f"Unknown {_FIELD} {shown(name)}: expected {' or '.join(['latent', *sorted(offered)])}; "
            "IMAGEGEN_UPSCALER adds a file",
            _FIELD,
        )

    def _load(self, description: UpscalerDef) -> LoadedUpscaler:
        if description is LANCZOS:
            return LoadedUpscaler(None, None, {})
        upscaler = description.load(self._settings)
        digest = None if description.weights is None else _digest(description.weights)
        return LoadedUpscaler(upscaler, digest, self._versions(description, upscaler))

    def _versions(self, description: UpscalerDef, upscaler: Upscaler) -> dict[str, str]:
        """Return the versions of the plugin, and of spandrel if it computes the network."""
        plugin = self._registry.owner(f"upscaler {description.name}")
        versions = {} if plugin is None else {plugin.distribution: plugin.version}
        if isinstance(upscaler, NetworkUpscaler) and upscaler.uses_spandrel:
            versions[_LIBRARY] = installed_version(_LIBRARY) or "unknown"
        return versions


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_HASH_DIGITS]


def _is_smaller(width: int, height: int, size: Size) -> bool:
    return width < size.width or height < size.height


def _values(pixels: npt.NDArray[np.uint8], size: Size) -> npt.NDArray[np.float32]:
    image = Image.fromarray(pixels)
    if image.size != (size.width, size.height):
        image = image.resize((size.width, size.height), Image.Resampling.LANCZOS)
    return Canvas(image).pixels()
