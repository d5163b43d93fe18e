"""The numerics plan of a loaded diffusers pipeline: read from the device, the model and the settings."""

from __future__ import annotations

import hashlib
import platform
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from imagegen_core.diffusion.device import DTYPE_NAMES
from imagegen_core.diffusion.exponential_attention import has_exponential_attention
from imagegen_core.diffusion.memory import whole_pixels
from imagegen_core.diffusion.pipeline_setup import has_channels_last
from imagegen_core.diffusion.switches import Switches
from imagegen_core.diffusion.tiny_vae import is_tiny
from imagegen_core.diffusion.vae_setup import is_channels_last
from imagegen_core.distributions import installed_version
from imagegen_core.memory_plan import MemoryPlan
from imagegen_core.numerics import NumericsPlan
from imagegen_core.settings import Settings

_PACKAGES = ("imagegen-core", "torch", "diffusers", "transformers", "pillow")  # Pillow prepares input pictures
_INSTRUCTIONS = ("avx512_bf16", "avx512_fp16", "avx512_vnni", "amx_bf16", "amx_fp16", "bf16", "i8mm", "sve_bf16")
_DRIVER = Path("/proc/driver/nvidia/version")
_DIGEST = 12


def numerics_plan(
    network: torch.nn.Module,
    decoder: Any,
    device: torch.device,
    dtype: torch.dtype,
    settings: Settings,
    memory: MemoryPlan,
    beside: int,
) -> NumericsPlan:
    """Return the plan of a pipeline that is set up on its device; call it on the compute thread.

    Args:
        network: The denoising network, such as ``pipe.unet``.
        decoder: The autoencoder that decodes pictures, such as ``pipe.vae``.
        device: The pipeline's device.
        dtype: The precision of the network.
        settings: The settings; `vae_tiling` and `vae_channels_last` override the rules.
        memory: The model's memory plan.
        beside: The bytes of weights on the device while the autoencoder decodes.
    """
    plan = device_numerics(device, dtype)
    layout = "channels last" if has_channels_last(device, dtype, settings) else "contiguous"
    usual = "exponential" if any(map(has_exponential_attention, network.modules())) else "sdpa"
    return replace(
        plan,
        computation="int8" if settings.int8 else None,
        layout=f"{layout}, VAE channels last" if is_channels_last(device, settings) else layout,
        attention="xformers" if settings.enable_xformers else "sliced" if settings.attention_slicing else usual,
        rows=settings.rows_per_pass if settings.rows_per_pass > 1 else None,
        vae_precision=DTYPE_NAMES[next(decoder.parameters()).dtype],
        decoder="tiny" if is_tiny(decoder) else None,
        tile=memory.tile,
        tiles_above=_tiles_above(decoder, settings, memory.room - beside),
        storage=memory.storage or "full",
        compiled=settings.compile,
        batching=settings.batching,
        exact=plan.exact and settings.batching == "exact" and not settings.compile,
        network=_digest(network),
    )


def device_numerics(device: torch.device, dtype: torch.dtype) -> NumericsPlan:
    """Return the part of a plan that the device, the precision and the libraries decide; call it on the compute thread.

    Args:
        device: The device.
        dtype: The precision of the network.
    """
    flags: dict[str, bool | str] = {
        name: value if isinstance(value, bool) else str(value)
        for name, value in Switches(device, "fast").values.items()
    }
    return NumericsPlan(
        device=device.type,
        precision=DTYPE_NAMES[dtype],
        processor=_processor(device),
        threads=torch.get_num_threads() if device.type == "cpu" else None,
        flags=flags,
        exact=not flags.get("cudnn_benchmark"),
        versions=_versions(device),
    )


def _tiles_above(decoder: Any, settings: Settings, room: int) -> int | None:
    if settings.vae_tiling is None:
        return whole_pixels(decoder, room)
    return 0 if settings.vae_tiling else None


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    capabilities = torch.cpu.get_capabilities()
    known = [name for name in _INSTRUCTIONS if capabilities.get(name)]
    return " ".join([platform.machine(), torch.backends.cpu.get_cpu_capability(), *known])


def _versions(device: torch.device) -> dict[str, str]:
    versions = {name: installed_version(name) or "unknown" for name in _PACKAGES}
    if device.type == "cuda":
        versions |= {
            "cuda": torch.version.cuda or torch.version.hip or "unknown",
            "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
            "driver": _driver(),
        }
    return versions


def _driver() -> str:
    """Return the version of NVIDIA's driver, or ``unknown`` where Linux does not tell it."""
    try:
        found = re.search(r"\b\d+\.\d+(\.\d+)?\b", _DRIVER.read_text())
    except OSError:
        return "unknown"
    return found[0] if found else "unknown"


def _digest(network: torch.nn.Module) -> str:
    """Return a digest of the tensors' names, shapes and dtypes, not of their values."""
    lines = (f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in network.state_dict().items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:_DIGEST]
