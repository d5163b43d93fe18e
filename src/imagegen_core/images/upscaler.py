"""The interface of an upscaler, and the description for plugins to offer one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from imagegen_core.importing import load_named

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from imagegen_core.settings import Settings

WEIGHTS_SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
_NETWORK = "imagegen_core.diffusion.upscaling:NetworkUpscaler"


class Upscaler(Protocol):
    """The interface to enlarge pictures by a fixed factor.

    An upscaler may also have ``enlarge_in_parts``, a generator that does the same. Between the stages of a drawing, it
    then runs on the worker's thread, and other pictures step between its parts.

    Attributes:
        name: Its name in a picture's recipe.
        scale: The factor for both sides.
    """

    name: str
    scale: int

    def enlarge(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Turn RGB pixels [height, width, 3] of any size into pixels [height * scale, width * scale, 3]."""
        ...


@runtime_checkable
class Shared(Upscaler, Protocol):
    """An upscaler for computation in a model's worker, tile by tile between its steps."""

    def compute_through(self, run: Callable[..., Any]) -> None:
        """From now on, run the network's computation through ``run(function, *arguments)``."""
        ...


@dataclass(frozen=True, slots=True)
class UpscalerDef:
    """The description of an upscaler, made without importing its dependencies.

    Attributes:
        name: Its name in ``--upscaler`` and in a picture's recipe.
        summary: One line for lists.
        scale: The factor for both sides; None if only the weights show it.
        weights: The network's file, with one of `WEIGHTS_SUFFIXES`; None without a network.
        factory: ``module:callable`` that makes the `Upscaler`, imported on first use and called with this description
            and the `Settings`. The default runs the network in `weights`.
    """

    name: str
    summary: str
    scale: int | None = None
    weights: Path | None = None
    factory: str = _NETWORK

    def load(self, settings: Settings) -> Upscaler:
        """Make the upscaler, on the first device of `settings`.

        Raises:
            PluginError: The factory's module does not import, or has no such name.
            ModelNotFoundError: The weights do not exist.
            ModelLoadError: The weights are damaged, or of an unknown network.
            SettingsError: The device does not exist.
        """
        factory = load_named(f"Upscaler '{self.name}'", self.factory)
        return cast("Upscaler", factory(self, settings.for_device()))


LANCZOS = UpscalerDef(
    name="lanczos",
    summary="interpolation, for want of a network",
    scale=2,
    factory="imagegen_core.images.upscaling:Lanczos",
)
