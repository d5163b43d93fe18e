"""Load tiny autoencoders, such as TAESD: they decode in a fraction of the VAE's time, with other pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from imagegen_core.diffusion.components import load_network
from imagegen_core.diffusion.construction_lock import undisturbed
from imagegen_core.diffusion.networks import Blueprint, Weights, build_network
from imagegen_core.diffusion.vae_setup import set_up_vae
from imagegen_core.errors import ModelLoadError
from imagegen_core.models import hints
from imagegen_core.models.folders import has_file, read_json
from imagegen_core.models.headers import read_header
from imagegen_core.models.networks.parts import sources, unwrapped
from imagegen_core.models.networks.tiny_vae import SCALE, SHIFT, tiny_vae_config, tiny_vae_halves, tiny_vae_layers
from imagegen_core.settings import Settings

_CLASS = "AutoencoderTiny"
_ADVICE = f"it is of another architecture: take a tiny VAE such as {hints.TINY_VAES}"
_TOLERANCE = 1e-3  # relative, of the scale in a file of half precision


def is_tiny(vae: Any) -> bool:
    """Return whether an autoencoder is a tiny one."""
    return type(vae).__name__ == _CLASS


def holds_tiny_vae(path: Path) -> bool:
    """Return whether a file or a diffusers-format folder holds a tiny autoencoder.

    Raises:
        ModelLoadError: The file or the folder's config is damaged.
    """
    if path.is_dir():
        return has_file(path, "config.json") and read_json(path, "config.json").get("_class_name") == _CLASS
    shapes = {name: tensor.shape for name, tensor in unwrapped(read_header(path).tensors).items()}
    return tiny_vae_halves(shapes) is not None


def load_decoders(
    pipe: Any, checkpoint: Path, device: torch.device, dtype: torch.dtype, settings: Settings
) -> tuple[Any, Any]:
    """Return the autoencoder that decodes pictures, and the one for previews: tiny ones where the settings ask.

    Args:
        pipe: The diffusers pipeline, on its device.
        checkpoint: The checkpoint's path, for errors.
        device: The pipeline's device.
        dtype: The dtype for the weights of tiny autoencoders.
        settings: The settings; `fast_decode` and `preview_decode` count.

    Raises:
        ModelLoadError: A setting names no tiny autoencoder, or one for other latents than the checkpoint's.
    """
    decoder = _configured("fast_decode", pipe, device, dtype, settings) or pipe.vae
    preview = _configured("preview_decode", pipe, device, dtype, settings) or decoder
    if (is_tiny(decoder) or is_tiny(preview)) and pipe.vae.config.get("latents_mean") is not None:
        raise ModelLoadError(
            f"{checkpoint} normalizes its latents by a mean of its own, which no tiny VAE knows: unset "
            f"{' and '.join(_used(settings))}"
        )
    return decoder, preview


def load_tiny_vae(path: Path, dtype: torch.dtype, source: str, replaced: Mapping[str, Any]) -> Any:
    """Load a tiny autoencoder from a file in any naming, or from a diffusers-format folder.

    Args:
        path: The file or folder.
        dtype: The dtype for the weights.
        source: The setting with the path, for errors.
        replaced: The config of the checkpoint's own VAE.

    Raises:
        ModelLoadError: The path holds no decoder of a tiny autoencoder, or a decoder for other latents.
    """
    if not path.exists():
        raise ModelLoadError(f"There is no tiny VAE {path}: correct {source}")
    if not holds_tiny_vae(path):
        raise ModelLoadError(
            f"{path} is no tiny VAE: set {source} to a tiny VAE's file, such as taesd_decoder.safetensors, or folder"
        )
    vae = _of_folder(path, dtype) if path.is_dir() else _of_file(path, dtype, source, replaced)
    own, wanted = vae.config.latent_channels, replaced.get("latent_channels", 4)
    if own != wanted:
        fitting = hints.TINY_VAES_OF_CHANNELS.get(wanted)
        raise ModelLoadError(
            f"{path} decodes latents of {own} channels, and the checkpoint's have {wanted}: set {source} to the tiny "
            f"VAE of the checkpoint's family{f', {fitting}' if fitting else ''}"
        )
    return vae


def _configured(field: str, pipe: Any, device: torch.device, dtype: torch.dtype, settings: Settings) -> Any | None:
    path: Path | None = getattr(settings, field)
    if path is None:
        return None
    own = pipe.vae.config
    replaced = {"latent_channels": own.latent_channels} if is_tiny(pipe.vae) else own
    vae = load_tiny_vae(path, dtype, settings.source(field), replaced)
    if device.type != "cpu":
        undisturbed(vae.to, device)
    set_up_vae(vae, device, dtype, settings)
    return vae


def _used(settings: Settings) -> list[str]:
    fields = ("fast_decode", "preview_decode", "vae_path")
    return [settings.source(field) for field in fields if getattr(settings, field) is not None]


def _of_folder(folder: Path, dtype: torch.dtype) -> Any:
    from diffusers import AutoencoderTiny

    return load_network(folder, "vae", AutoencoderTiny, dtype)


def _of_file(path: Path, dtype: torch.dtype, source: str, replaced: Mapping[str, Any]) -> Any:
    from diffusers import AutoencoderTiny

    with Weights([path]) as weights:
        layers = unwrapped(sources(weights.files[0].header))
        layout, halves = tiny_vae_halves({name: layer.shape for name, layer in layers.items()}) or ("", ())
        if "decoder" not in halves:
            raise ModelLoadError(
                f"{path} holds the encoder of a tiny VAE alone, and pictures need its decoder: set {source} to the "
                "decoder's file, such as taesd_decoder.safetensors"
            )
        for name, field in ((SCALE, "scaling_factor"), (SHIFT, "shift_factor")):
            if name in layers:
                _check_scale(path, field, weights.read(layers[name], torch.float32), source, replaced)
        layers = tiny_vae_layers(layers, layout)
        try:
            config = tiny_vae_config(layers)
        except (KeyError, IndexError) as error:
            raise ModelLoadError(f"{path} is a tiny VAE without the tensor {error}: {_ADVICE}") from error
        blueprint = Blueprint("vae", AutoencoderTiny, config, f"diffusers' {_CLASS}", _ADVICE)
        return build_network(blueprint, layers, weights, dtype)


def _check_scale(path: Path, field: str, stated: torch.Tensor, source: str, replaced: Mapping[str, Any]) -> None:
    """Check the scale or the shift in a file against the checkpoint's own VAE: those of families differ by it."""
    own, values = replaced.get(field) or 0.0, stated.flatten().tolist()
    is_known = replaced.get("_class_name") != _CLASS and field in replaced
    if is_known and not (len(values) == 1 and math.isclose(values[0], own, rel_tol=_TOLERANCE)):
        raise ModelLoadError(
            f"{path} is for latents with the {field} {', '.join(f'{value:g}' for value in values)}, and the "
            f"checkpoint's is {own:g}: set {source} to the tiny VAE of the checkpoint's family"
        )
