"""Set up a loaded pipeline for its device."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from imagegen_core.diffusion.batch_invariance import make_rowwise
from imagegen_core.diffusion.construction_lock import undisturbed
from imagegen_core.diffusion.cpu_layers import use_cpu_layers
from imagegen_core.diffusion.decoding import overflows, upcast
from imagegen_core.errors import SettingsError, first_line
from imagegen_core.settings import Settings

logger = logging.getLogger(__name__)

_INT8_INSTRUCTIONS = ("avx512_vnni", "amx_int8")  # without them, products of bytes may overflow 16 bits


def prepare(pipe: Any, network: Any, device: torch.device, dtype: torch.dtype, settings: Settings) -> None:
    """Move a pipeline to its device and set it up as `settings` ask.

    Args:
        pipe: The pipeline.
        network: Its network for denoising.
        device: The device.
        dtype: The dtype of the weights.
        settings: The settings.

    Raises:
        SettingsError: The settings ask for xformers, but it does not work here.
    """
    if device.type == "cpu":
        # With this layout, its convolutions at the picture's full size take three quarters of the time.
        pipe.vae.to(memory_format=torch.channels_last)
    else:
        pipe.to(device)
    make_rowwise(network)
    if settings.int8:
        _check_int8(settings, device)
    if device.type == "cpu" and not settings.compile:  # a compiler chooses its own operators
        use_cpu_layers(pipe, network, int8=settings.int8)
    if dtype == torch.float16:
        settle_vae(pipe.vae)
    if settings.enable_xformers:
        _enable_xformers(pipe, settings.source("enable_xformers"))
    if settings.attention_slicing:
        pipe.enable_attention_slicing()
    if settings.compile:
        network.compile()


def settle_vae(vae: Any) -> None:
    """Make an fp16 VAE compute in fp32 if its config asks for it, or if it overflows.

    The decision is made at load, so that no later picture changes it.
    """
    if getattr(vae.config, "force_upcast", False):
        upcast(vae)
    elif undisturbed(overflows, vae):
        logger.warning(
            "The VAE overflows in float16: it computes in fp32; set VAE_PATH to a VAE that does not overflow"
        )
        upcast(vae)


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
