"""Choose the device and the precision of a model, and configure its threads and memory."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
from collections.abc import Mapping

import torch

from imagegen_core.errors import SettingsError
from imagegen_core.resources.cpus import usable_cpus
from imagegen_core.settings import Settings

logger = logging.getLogger(__name__)

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
"""torch's dtypes by their names in settings."""
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

# Parameters of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 2**30
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # torch reads them in this order


def choose_device(settings: Settings) -> torch.device:
    """Return the configured device, or the first of them, else the first CUDA device, Apple's GPU, or the CPU.

    The CPU is chosen with a warning.

    Raises:
        SettingsError: torch does not know the configured device, or this machine does not have it.
    """
    settings = settings.for_device()
    if settings.device is None:
        if torch.cuda.is_available():
            return torch.device("cuda:0")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        logger.warning("No GPU found: drawing on the CPU")
        return torch.device("cpu")
    asked = f"{settings.source('device')}={settings.device}"
    try:
        device = torch.device(settings.device)
    except RuntimeError as error:
        raise SettingsError(f"Invalid device {asked}: expected cuda:0, mps or cpu") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingsError(
            f"{asked}, but PyTorch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices: "
            "install a CUDA build of PyTorch and the driver, choose another index, or leave the device unset"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SettingsError(f"{asked}, but this machine has no Apple GPU: leave the device unset")
    return device


def choose_dtype(settings: Settings, device: torch.device) -> torch.dtype:
    """Return the configured precision, else fp16 on a GPU, bf16 on a CPU with native bf16, else fp32."""
    if settings.dtype is not None:
        return DTYPES[settings.dtype]
    if device.type != "cpu":
        return torch.float16
    return torch.bfloat16 if _computes_bf16(torch.cpu.get_capabilities()) else torch.float32


def limit_threads() -> None:
    """Limit torch to as many threads as there are CPUs for this process.

    torch counts cores, not a container's quota of CPU time, and all threads stop after they use up the quota. A number
    of threads from the environment stays. A number from the program stays, unless it is larger.
    """
    if not any(os.environ.get(name) for name in _THREAD_VARIABLES) and torch.get_num_threads() > (
        cpus := usable_cpus()
    ):
        torch.set_num_threads(cpus)


def keep_large_buffers() -> None:
    """Make glibc keep freed buffers for the next operator, and not return them to the kernel.

    Otherwise, every operator of a forward pass on the CPU pays for fresh, zeroed pages: 20,000 page faults for a 256 px
    picture. Threads share the main arena, because the other arenas cannot keep a buffer above 64 MB: a layer of the
    demo's VAE took 0.30 s at 1024 px instead of 0.12. Other C libraries stay as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * _KEPT_BYTES - 1)


def release_buffers() -> None:
    """Make glibc return freed memory to the kernel now, where memory is short: a load and a step leave large gaps."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _computes_bf16(capabilities: Mapping[str, object]) -> bool:
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
