"""Enlarging with a network: ESRGAN's family by itself, other architectures through spandrel where that is installed."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from imagegen_core.diffusion.building import undisturbed
from imagegen_core.diffusion.device import choose_device
from imagegen_core.errors import ModelLoadError, ModelNotFoundError
from imagegen_core.images.tiling import enlarge_in_tiles
from imagegen_core.images.upscaler import UpscalerDef
from imagegen_core.settings import Settings

Weights = dict[str, Tensor]
Network = Callable[[Tensor], Tensor]  # RGB [1, 3, h, w] in 0..1 to RGB [1, 3, h * scale, w * scale]

_TILE = 256
# How far a deep network looks in effect. In theory it is hundreds of pixels, and a tile would be mostly surroundings.
_DEEP_OVERLAP = 32
_PROBE = 16
_WRAPPERS = ("params_ema", "params", "state_dict", "model")  # what training programs file the weights under

_RRDB_BLOCK = re.compile(r"(?:body|RRDB_trunk|model\.1\.sub)\.(\d+)\.(?:rdb|RDB)([123])\.conv([1-5])(?:\.0)?")
_RRDB_LAYERS = {
    "conv_first": "first",
    "conv_body": "trunk",
    "trunk_conv": "trunk",
    "conv_up1": "up.0",
    "upconv1": "up.0",
    "conv_up2": "up.1",
    "upconv2": "up.1",
    "conv_hr": "high",
    "HRconv": "high",
    "conv_last": "last",
}


class NetworkUpscaler:
    """A network from a ``.pth`` or ``.safetensors`` file, computing in float32, tile by tile.

    Attributes:
        name: The description's.
        scale: What both sides grow by.
    """

    def __init__(self, description: UpscalerDef, settings: Settings) -> None:
        """Load the description's weights.

        Raises:
            ModelNotFoundError: They are not there.
            ModelLoadError: They are damaged, or of a network that neither this module nor spandrel knows.
            SettingsError: The device configured is not there.
        """
        path = description.weights
        if path is None:
            raise ModelLoadError(f"Upscaler '{description.name}' names no weights: report it to its plugin's authors")
        self.name = description.name
        self._through: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]] = self._run
        weights = _read(path)
        self._device = choose_device(settings)
        self._network, self._overlap = undisturbed(
            _build, {name: tensor.to(self._device, torch.float32) for name, tensor in weights.items()}, path
        )
        try:
            probed = self._run(np.zeros((_PROBE, _PROBE, 3), np.uint8))
        except (KeyError, RuntimeError) as error:
            raise ModelLoadError(f"Cannot run {path}: its weights do not fit together; copy it anew") from error
        self.scale = probed.shape[0] // _PROBE
        if probed.shape != (_PROBE * self.scale, _PROBE * self.scale, 3):
            raise ModelLoadError(f"Cannot use {path}: it does not enlarge RGB by a whole number; give another upscaler")

    def compute_through(self, run: Callable[..., Any]) -> None:
        """See `imagegen_core.images.upscaler.Shared`."""
        self._through = functools.partial(run, self._run)

    def enlarge(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """See `Upscaler.enlarge`."""
        return enlarge_in_tiles(self._through, pixels, scale=self.scale, tile=_TILE, overlap=self._overlap)

    @torch.inference_mode()
    def _run(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        image = torch.tensor(pixels, device=self._device).permute(2, 0, 1)[None] / 255
        levels = self._network(image)[0].clamp(0, 1).mul(255).round()
        return levels.to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()


def _read(path: Path) -> Weights:
    """The tensors of a weights file, by name."""
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        held: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"No upscaler {path}: give the path of a .pth or .safetensors file") from error
    except Exception as error:  # the formats' errors have no base class in common
        cause = str(error).strip().partition("\n")[0].rstrip(".")
        raise ModelLoadError(f"Cannot load the upscaler {path}: {cause}; copy it anew") from error
    for wrapper in _WRAPPERS:
        if isinstance(held, dict) and isinstance(held.get(wrapper), dict):
            held = held[wrapper]
    if not isinstance(held, dict) or not all(isinstance(tensor, Tensor) for tensor in held.values()):
        raise ModelLoadError(f"Cannot load the upscaler {path}: it holds no network's weights; give another file")
    return held


def _build(weights: Weights, path: Path) -> tuple[Network, int]:
    """The network that the weights' names tell, and how far around a tile it looks."""
    if rrdb := _rrdb_weights(weights):
        return functools.partial(_rrdb, rrdb), _DEEP_OVERLAP
    layers = len([name for name in weights if re.fullmatch(r"body\.\d+\.weight", name)])
    if layers % 2 and f"body.{layers - 1}.bias" in weights and weights["body.1.weight"].ndim == 1:
        return functools.partial(_compact, weights, layers), layers // 2 + 1
    return _through_spandrel(weights, path), _DEEP_OVERLAP


def _rrdb(weights: Weights, image: Tensor) -> Tensor:
    """ESRGAN's generator: https://arxiv.org/abs/1809.00219, and https://arxiv.org/abs/2107.10833 for scales below 4."""

    def conv(layer: str, features: Tensor) -> Tensor:
        return functional.conv2d(features, weights[f"{layer}.weight"], weights[f"{layer}.bias"], padding=1)

    def activated(layer: str, features: Tensor) -> Tensor:
        return functional.leaky_relu(conv(layer, features), 0.2)

    def dense(block: str, features: Tensor) -> Tensor:
        seen = features
        for layer in range(1, 5):
            seen = torch.cat((seen, activated(f"{block}.{layer}", seen)), dim=1)
        return features + 0.2 * conv(f"{block}.5", seen)

    height, width = image.shape[2:]
    shuffled = math.isqrt(weights["first.weight"].shape[1] // 3)
    padded = functional.pad(image, (0, -width % shuffled, 0, -height % shuffled), mode="replicate")
    features = conv("first", functional.pixel_unshuffle(padded, shuffled))
    deep = features
    for block in range(_count(weights, "blocks")):
        inner = deep
        for part in range(1, 4):
            inner = dense(f"blocks.{block}.{part}", inner)
        deep = deep + 0.2 * inner
    features = features + conv("trunk", deep)
    ups = _count(weights, "up")
    for up in range(ups):
        features = activated(f"up.{up}", functional.interpolate(features, scale_factor=2, mode="nearest"))
    enlarged = conv("last", activated("high", features))
    return enlarged[:, :, : height * 2**ups // shuffled, : width * 2**ups // shuffled]


def _compact(weights: Weights, layers: int, image: Tensor) -> Tensor:
    """Real-ESRGAN's SRVGGNetCompact: convolutions with PReLU between them, added to the nearest neighbour's picture."""
    features = image
    for layer in range(0, layers, 2):
        features = functional.conv2d(
            features, weights[f"body.{layer}.weight"], weights[f"body.{layer}.bias"], padding=1
        )
        if layer < layers - 1:
            features = functional.prelu(features, weights[f"body.{layer + 1}.weight"])
    scale = math.isqrt(features.shape[1] // 3)
    return functional.pixel_shuffle(features, scale) + functional.interpolate(image, scale_factor=scale)


def _rrdb_weights(weights: Weights) -> Weights | None:
    """ESRGAN's weights under one set of names, whichever program wrote them; None where they are of another network."""
    numbered = sorted({int(match[1]) for name in weights if (match := re.fullmatch(r"model\.(\d+)\.weight", name))})
    roles = ("first", *(f"up.{number}" for number in range(len(numbered) - 3)), "high", "last")
    layers = _RRDB_LAYERS | {f"model.{number}": role for number, role in zip(numbered, roles, strict=False)}
    renamed: Weights = {}
    for name, tensor in weights.items():
        layer, _, kind = name.rpartition(".")
        if match := _RRDB_BLOCK.fullmatch(layer):
            renamed[f"blocks.{match[1]}.{match[2]}.{match[3]}.{kind}"] = tensor
        elif layer in layers or re.fullmatch(r"model\.1\.sub\.\d+", layer):
            renamed[f"{layers.get(layer, 'trunk')}.{kind}"] = tensor
        else:
            return None
    return renamed


def _count(weights: Iterable[str], prefix: str) -> int:
    return len({name.split(".")[1] for name in weights if name.startswith(f"{prefix}.")})


def _through_spandrel(weights: Weights, path: Path) -> Network:
    """The network as spandrel recognises it."""
    try:
        from spandrel import ImageModelDescriptor, ModelLoader, UnsupportedModelError
    except ImportError as error:
        raise ModelLoadError(
            f"Cannot run {path}: it is not of ESRGAN's family, and spandrel, which knows others, does not import "
            f"({error}); pip install imagegen-core[upscale] together with the torchvision of your PyTorch"
        ) from error
    try:
        network: Any = ModelLoader(next(iter(weights.values())).device).load_from_state_dict(weights)
    except UnsupportedModelError as error:
        raise ModelLoadError(f"Cannot run {path}: no architecture known fits it; give another upscaler") from error
    if not isinstance(network, ImageModelDescriptor):
        raise ModelLoadError(f"Cannot run {path}: it fills masked parts and enlarges nothing; give another upscaler")
    return cast("Network", network)
