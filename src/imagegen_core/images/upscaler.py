"""What an upscaler is, and the description by which a plugin offers one."""

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
    """Enlarges pictures by a fixed factor.

    Attributes:
        name: What a picture's recipe calls it.
        scale: What both sides grow by.
    """

    name: str
    scale: int

    def enlarge(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Turn RGB pixels [height, width, 3] of any size into pixels [height * scale, width * scale, 3]."""
        ...


@runtime_checkable
class Shared(Upscaler, Protocol):
    """An upscaler whose network can compute where a model does, tile by tile between its steps."""

    def compute_through(self, run: Callable[..., Any]) -> None:
        """Have ``run(function, *arguments)`` call what computes from now on."""
        ...


@dataclass(frozen=True, slots=True)
class UpscalerDef:
    """A way to enlarge, described without importing what it takes.

    Attributes:
        name: What ``--upscaler`` and a picture's recipe call it.
        summary: One line for lists.
        scale: What both sides grow by; None where only the weights say.
        weights: The network's file, of one of `WEIGHTS_SUFFIXES`, where it is one.
        factory: ``module:callable`` that makes the `Upscaler`, imported on first use and called with this
            description and the `Settings`. Left out, it is the one that runs the network in `weights`.
    """

    name: str
    summary: str
    scale: int | None = None
    weights: Path | None = None
    factory: str = _NETWORK

    def load(self, settings: Settings) -> Upscaler:
        """Make the upscaler, on the device that `settings` name, or the first of them.

        Raises:
            PluginError: The factory's module does not import, or has no such name.
            ModelNotFoundError: The weights are not there.
            ModelLoadError: The weights are damaged, or of a network that is not known.
            SettingsError: The device is not there.
        """
        factory = load_named(f"Upscaler '{self.name}'", self.factory)
        return cast("Upscaler", factory(self, settings.for_device()))


LANCZOS = UpscalerDef(
    name="lanczos",
    summary="interpolation, for want of a network",
    scale=2,
    factory="imagegen_core.images.upscaling:Lanczos",
)
