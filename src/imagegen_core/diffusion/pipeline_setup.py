"""Set up a loaded pipeline for its device."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from imagegen_core.diffusion.batch_invariance import make_rowwise
from imagegen_core.diffusion.construction_lock import undisturbed
from imagegen_core.diffusion.decoding import overflows, upcast
from imagegen_core.diffusion.residency import Residency
from imagegen_core.diffusion.stored_weights import store_weights
from imagegen_core.errors import SettingsError, first_line
from imagegen_core.memory_plan import MemoryPlan
from imagegen_core.settings import Settings

logger = logging.getLogger(__name__)


def prepare(
    pipe: Any, denoiser: str, device: torch.device, dtype: torch.dtype, settings: Settings, memory: MemoryPlan
) -> Residency:
    """Move a pipeline to its device and set it up as `settings` ask; return the places of its components.

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
    if memory.storage is not None:  # a family's own `load_file` may have left some
        for name, part in pipe.components.items():
            if isinstance(part, torch.nn.Module) and name != "vae":
                store_weights(part)
    residency = Residency(pipe, denoiser, device, memory)
    if device.type == "cpu":
        # With this layout, its convolutions at the picture's full size take three quarters of the time.
        pipe.vae.to(memory_format=torch.channels_last)
    make_rowwise(network)
    if dtype == torch.float16:
        settle_vae(pipe.vae)
    if settings.enable_xformers:
        _enable_xformers(pipe, settings.source("enable_xformers"))
    if settings.attention_slicing:
        pipe.enable_attention_slicing()
    if settings.compile:
        network.compile()
    return residency


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


def _enable_xformers(pipe: Any, source: str) -> None:
    try:
        pipe.enable_xformers_memory_efficient_attention()
    except (ImportError, ValueError) as error:
        raise SettingsError(
            f"{source} asks for xformers, which cannot be used here ({error}): "
            "pip install 'imagegen-core[xformers]' on a machine with CUDA, or unset it"
        ) from error
