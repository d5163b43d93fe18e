"""Set up a loaded pipeline for its device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from imagegen_core.diffusion.batch_invariance import make_rowwise
from imagegen_core.diffusion.cpu_layers import are_used, use_cpu_layers
from imagegen_core.diffusion.gpu_layers import has_tensor_cores, use_gpu_layers
from imagegen_core.diffusion.vae_setup import is_channels_last, set_up_vae
from imagegen_core.errors import SettingsError, first_line
from imagegen_core.memory_plan import MemoryPlan
from imagegen_core.settings import Settings

_INT8_INSTRUCTIONS = ("avx512_vnni", "amx_int8")  # without them, products of bytes may overflow 16 bits


def prepare(
    pipe: Any, denoiser: str, device: torch.device, dtype: torch.dtype, settings: Settings, memory: MemoryPlan
) -> None:
    """Set up a pipeline on its device as `settings` ask.

    Args:
        pipe: The pipeline.
        denoiser: The name of its network for denoising.
        device: The device.
        dtype: The dtype of the weights.
        settings: The settings.
        memory: The memory plan.

    Raises:
        SettingsError: The settings ask for xformers, but it does not work here; or they ask for a compiled network that
            the memory plan moves.
    """
    network = getattr(pipe, denoiser)
    if settings.compile and (memory.streamed or denoiser in memory.offloaded):
        raise SettingsError(
            f"{settings.source('compile')} compiles the {denoiser}, which this device's memory of "
            f"{memory.total / 1e9:.1f} GB does not hold all the time: unset it, or use a device with more memory"
        )
    if device.type == "cpu":
        make_rowwise(network)
    set_up_vae(pipe.vae, device, dtype, settings)
    if settings.int8:
        _check_int8(settings, device)
    if device.type == "cpu" and not settings.compile:  # a compiler chooses its own operators
        use_cpu_layers(pipe, network, int8=settings.int8, memory=memory)
    if device.type == "cuda":
        parts = {network: has_channels_last(device, dtype, settings), pipe.vae: is_channels_last(device, settings)}
        for part in [part for part, is_last in parts.items() if is_last]:
            use_gpu_layers(part)
    if settings.enable_xformers:
        _enable_xformers(pipe, settings.source("enable_xformers"))
    if settings.attention_slicing:
        pipe.enable_attention_slicing()
    if settings.compile:
        network.compile()


def has_channels_last(device: torch.device, dtype: torch.dtype, settings: Settings) -> bool:
    """Return whether a network keeps its channels last in memory; a compiler chooses its own layout."""
    return are_used(device, dtype, compiled=settings.compile) or (has_tensor_cores(device) and not settings.compile)


@contextmanager
def compile_errors(source: str) -> Iterator[None]:
    """Turn the errors of `torch.compile` into a sentence; `source` is the setting that asks for it.

    Raises:
        SettingsError: The network could not be compiled.
    """
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        raise SettingsError(
            f"{source} asks for torch.compile, which does not work here ({first_line(error)}): "
            "install a C++ compiler such as g++, or unset it"
        ) from error


def _check_int8(settings: Settings, device: torch.device) -> None:
    """Refuse int8 where it is not available.

    Raises:
        SettingsError: The device is no CPU, its CPU has no instructions for int8, or the network is compiled.
    """
    asked = f"{settings.source('int8')}=true"
    if device.type != "cpu":
        raise SettingsError(f"{asked} asks for products in int8, which only a CPU has here, not {device}: unset it")
    if settings.compile:
        raise SettingsError(f"{asked} does not work with {settings.source('compile')}: unset one of them")
    capabilities = torch.cpu.get_capabilities()
    if not any(capabilities.get(name) for name in _INT8_INSTRUCTIONS):
        raise SettingsError(
            f"{asked} needs a CPU with VNNI or AMX ({', '.join(_INT8_INSTRUCTIONS)}), and this CPU has none: unset it"
        )


def _enable_xformers(pipe: Any, source: str) -> None:
    try:
        pipe.enable_xformers_memory_efficient_attention()
    except (ImportError, ValueError) as error:
        raise SettingsError(
            f"{source} asks for xformers, which cannot be used here ({error}): "
            "pip install 'imagegen-core[xformers]' on a machine with CUDA, or unset it"
        ) from error
