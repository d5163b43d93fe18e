"""Enlarge pictures with a network: ESRGAN's family with own code, other architectures with spandrel if installed."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from imagegen_core.diffusion.construction_lock import undisturbed
from imagegen_core.diffusion.device import choose_device, limit_threads
from imagegen_core.diffusion.esrgan import esrgan_network
from imagegen_core.diffusion.peak_memory import PeakMemory
from imagegen_core.diffusion.spandrel_network import spandrel_network
from imagegen_core.diffusion.upscaler_weights import read_weights
from imagegen_core.errors import ModelLoadError, OutOfMemoryError
from imagegen_core.images.tiling import enlarge_in_tiles
from imagegen_core.images.upscaler import UpscalerDef
from imagegen_core.parts import Parts, completed
from imagegen_core.settings import Settings

_TILE = 256
_PROBE = 16
_CHANNELS = (1, 3)


class NetworkUpscaler:
    """A network from a file of weights; it computes in float32, tile by tile, and a grey network channel by channel.

    Attributes:
        name: The description's name.
        scale: The factor for both sides.
        uses_spandrel: Whether spandrel computes the network.
        weight_bytes: The memory of its weights, in bytes.
    """

    def __init__(self, description: UpscalerDef, settings: Settings) -> None:
        """Load the description's weights.

        Raises:
            ModelNotFoundError: The weights' file does not exist.
            ModelLoadError: The weights are damaged, or their network cannot be used here; the message gives the reason.
            PluginError: The weights need spandrel, but it does not import.
            SettingsError: The configured device is not available.
        """
        path = description.weights
        if path is None:
            raise ModelLoadError(f"Upscaler '{description.name}' names no weights: report it to its plugin's authors")
        self.name = description.name
        self._through: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]] = self._run
        limit_threads()
        self._device = choose_device(settings)
        weights = {name: tensor.to(self._device) for name, tensor in read_weights(path).items()}
        network = esrgan_network(weights, path)
        self.uses_spandrel = isinstance(network, str)
        self.weight_bytes = sum(tensor.nbytes for tensor in weights.values())
        self._network = (
            undisturbed(spandrel_network, weights, self._device, path, network) if isinstance(network, str) else network
        )
        if self._network.channels not in _CHANNELS:
            raise ModelLoadError(
                f"Cannot use the upscaler {path}: it takes {self._network.channels} channels; give one for RGB or grey"
            )
        counted = PeakMemory()
        try:
            with counted:
                height, width = self._run(np.zeros((_PROBE, _PROBE, 3), np.uint8)).shape[:2]
        except OutOfMemoryError:
            raise
        except Exception as error:  # each architecture fails in its own way
            cause = " ".join(str(error).split())
            raise ModelLoadError(
                f"Cannot run {path}: the shapes of its weights do not fit together ({cause}); give another upscaler"
            ) from error
        self.scale = height // _PROBE
        if not self.scale or (height, width) != (_PROBE * self.scale, _PROBE * self.scale):
            raise ModelLoadError(
                f"Cannot use the upscaler {path}: it turns {_PROBE}x{_PROBE} pixels into {width}x{height}, and only "
                "whole numbers are scales here; give another upscaler"
            )

        self._pixel_bytes = counted.peak / _PROBE**2

    def tile_bytes(self, width: int, height: int) -> int:
        """Estimate the memory to enlarge one tile of a picture of this size, in bytes: linear in its pixels."""
        sides = (min(side, _TILE + 2 * self._network.overlap) for side in (width, height))
        return int(self._pixel_bytes * math.prod(sides))

    def compute_through(self, run: Callable[..., Any]) -> None:
        """See `imagegen_core.images.upscaler.Shared`."""
        self._through = functools.partial(run, self._run)

    def enlarge(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """See `Upscaler.enlarge`."""
        return completed(self.enlarge_in_parts(pixels))

    def enlarge_in_parts(self, pixels: npt.NDArray[np.uint8]) -> Parts[npt.NDArray[np.uint8]]:
        """Enlarge as `enlarge` does, one tile at a time."""
        return enlarge_in_tiles(self._through, pixels, scale=self.scale, tile=_TILE, overlap=self._network.overlap)

    @torch.inference_mode()
    def _run(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        image = torch.tensor(pixels, device=self._device).permute(2, 0, 1)[None] / 255
        try:
            parts = image.chunk(3 // self._network.channels, dim=1)
            enlarged = torch.cat([self._network.run(part) for part in parts], dim=1)
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"The memory of {self._device} does not take the upscaler '{self.name}': choose a smaller one or "
                "lanczos, or use a device with more memory"
            ) from error
        levels = enlarged[0].clamp(0, 1).mul(255).round()
        return levels.to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
