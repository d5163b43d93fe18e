"""Read the weights of an upscaler from a file, and check them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imagegen_core.errors import ModelLoadError, ModelNotFoundError, first_line
from imagegen_core.images.upscaler import WEIGHTS_SUFFIXES
from imagegen_core.models.headers import read_header

Weights = dict[str, Tensor]

# Names under which training programs save a network's weights; the first match counts. BasicSR draws with the moving
# average ("ema") of its weights, and saves the last weights next to it.
_WRAPPERS = ("params_ema", "params-ema", "params", "model_state_dict", "state_dict", "model", "net")
# Names of data to continue a training; programs save them next to the weights.
_TRAINING_STATE = (
    "optimizer",
    "optimizers",
    "optimizer_state_dict",
    "optimizer_states",
    "scheduler",
    "schedulers",
    "lr_schedulers",
    "scaler",
    "callbacks",
    "loops",
)
_PREFIXES = ("module.", "netG.")  # of networks trained on several GPUs, or together with a discriminator


def read_weights(path: Path) -> Weights:
    """Read the weights of an upscaler's file by name; floating-point weights as float32.

    The content determines the format. No code in a pickle runs. No tensor is mapped from the file.

    Raises:
        ModelNotFoundError: The file does not exist.
        ModelLoadError: The file is damaged, holds no network's weights, holds other tensors too, or has values that are
            not finite.
    """
    if not path.exists():
        raise ModelNotFoundError(f"No upscaler {path}: give the path of a {' or '.join(WEIGHTS_SUFFIXES)} file")
    if read_header(path).format == "safetensors":
        from safetensors.torch import load

        # From memory, because a mapped file ends the process if another program writes to it.
        held: Any = load(path.read_bytes())
    else:
        try:
            held = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch's errors about files have no common base class
            raise ModelLoadError(
                f"Cannot load the upscaler {path}: {first_line(error)}; save only its weights, as a .safetensors file"
            ) from error
    weights = _without_prefix(_unwrapped(held, path))
    return {name: _checked(name, tensor, path) for name, tensor in weights.items()}


def _unwrapped(held: Any, path: Path) -> Weights:
    """Return the weights inside the data of a training program."""
    while isinstance(held, dict):
        wrapper = next((name for name in _WRAPPERS if isinstance(held.get(name), dict) and held[name]), None)
        if wrapper is None and len(held) == 1 and isinstance(next(iter(held.values())), dict):
            wrapper = next(iter(held))
        if wrapper is None:
            break
        for name, value in held.items():
            if name != wrapper and name not in (*_WRAPPERS, *_TRAINING_STATE) and _has_tensors(value):
                raise ModelLoadError(
                    f"Cannot use the upscaler {path}: it holds tensors under {name!r} beside the weights under "
                    f"{wrapper!r}; save only its weights"
                )
        held = held[wrapper]
    if not isinstance(held, dict) or not _has_tensors(held):
        raise ModelLoadError(f"Cannot load the upscaler {path}: it holds no network's weights; give another file")
    for name, tensor in held.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ModelLoadError(
                f"Cannot use the upscaler {path}: its {name!r} is not a tensor but {type(tensor).__name__}; "
                "save only its weights"
            )
    return held


def _has_tensors(held: Any) -> bool:
    if isinstance(held, dict):
        return any(map(_has_tensors, held.values()))
    if isinstance(held, list | tuple):
        return any(map(_has_tensors, held))
    return isinstance(held, Tensor)


def _without_prefix(weights: Weights) -> Weights:
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def _checked(name: str, tensor: Tensor, path: Path) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    tensor = tensor.to(torch.float32)
    if not tensor.isfinite().all():
        raise ModelLoadError(
            f"Cannot use the upscaler {path}: its {name!r} has values that are not finite, as after a training that "
            "failed; give another file"
        )
    return tensor
