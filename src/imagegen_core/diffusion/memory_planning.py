"""Plan a checkpoint's memory before its weights are read, from its headers, the settings and the device."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from imagegen_core.diffusion.memory import (
    DECODER_COPIES,
    FLAT_UNET_COPIES,
    TRANSFORMER_COPIES,
    UNET_COPIES,
    total_bytes,
)
from imagegen_core.diffusion.vae_setup import wide_dtype
from imagegen_core.errors import SettingsError
from imagegen_core.family import Family
from imagegen_core.memory_plan import Memory, MemoryPlan, Shapes, Work, plan_memory
from imagegen_core.models.component_shapes import TensorShapes, component_shapes
from imagegen_core.models.networks.storable import component_bytes
from imagegen_core.request import Size
from imagegen_core.resources.memory import system_memory
from imagegen_core.settings import Settings

logger = logging.getLogger(__name__)

_GUIDED = 2  # rows of a guided picture
_PATCH = 2  # latents for each side of a transformer's tokens


def checkpoint_plan(
    path: Path, family: Family, size: Size, device: torch.device, dtype: torch.dtype, settings: Settings
) -> MemoryPlan:
    """Return the memory plan of a checkpoint.

    Args:
        path: The checkpoint's file or diffusers-format folder.
        family: Its family.
        size: Its native size.
        device: The device to draw on.
        dtype: The precision of its weights.
        settings: The settings; `memory` and `weight_storage` override the rules.

    Raises:
        ModelLoadError: A file is damaged.
        SettingsError: `memory` is more than the device has.
    """
    shapes = component_shapes(path, family, settings.base_model, settings.vae_path)
    components = checkpoint_bytes(shapes, dtype)
    vae_dtype = wide_dtype(device) if dtype == torch.float16 else dtype  # such VAEs often overflow in fp16
    work = estimated_work(shapes, family, size, dtype, vae_dtype)
    memory = device_budget(device, settings)
    plan = plan_memory(components, family.denoiser, size, work, memory, settings.weight_storage)
    if not plan.fits:
        logger.warning(
            "A picture of %s takes about %.1f GB with this model, and %s has %.1f GB for it: smaller pictures may fit",
            size,
            plan.peak / 1e9,
            device,
            plan.room / 1e9,
        )
    return plan


def checkpoint_bytes(shapes: Mapping[str, TensorShapes], dtype: torch.dtype) -> dict[str, Shapes]:
    """Return the bytes of each component's weights, by the shapes of its tensors; an autoencoder is never stored."""
    return {name: component_bytes(tensors, dtype.itemsize, is_stored=name != "vae") for name, tensors in shapes.items()}


def device_budget(device: torch.device, settings: Settings) -> Memory:
    """Return the memory of a device that the settings allow.

    Raises:
        SettingsError: The settings allow more than the device has.
    """
    total, main = total_bytes(device), system_memory().total
    if settings.memory is None:
        return Memory(device.type, total, is_given=False, main=main)
    if settings.memory > total:
        raise SettingsError(
            f"{settings.source('memory')} allows {settings.memory / 1e9:.1f} GB, and {device} has {total / 1e9:.1f} "
            "GB: name less, or unset it"
        )
    return Memory(device.type, settings.memory, is_given=True, main=main)


def estimated_work(
    shapes: Mapping[str, TensorShapes], family: Family, size: Size, dtype: torch.dtype, vae_dtype: torch.dtype
) -> Work:
    """Estimate the memory of computing from the widths of the first and last layers; see `imagegen_core.memory`."""
    reduction, item = family.latent_reduction, dtype.itemsize
    latents = (size.width // reduction) * (size.height // reduction)
    denoiser, vae = shapes.get(family.denoiser, {}), shapes.get("vae", {})
    if "conv_in.weight" in denoiser:
        has_attention = any(name.startswith("down_blocks.0.attentions.") for name in denoiser)
        row = (UNET_COPIES if has_attention else FLAT_UNET_COPIES) * denoiser["conv_in.weight"][0] * latents * item
    else:
        widths = [min(shape) for shape in denoiser.values() if len(shape) == _PATCH]
        row = TRANSFORMER_COPIES * max(widths, default=0) * latents // _PATCH**2 * item
    channels = 2 * vae["decoder.conv_norm_out.weight"][0] if "decoder.conv_norm_out.weight" in vae else 0
    return Work(step=_GUIDED * row, pixel=DECODER_COPIES * channels * vae_dtype.itemsize)
