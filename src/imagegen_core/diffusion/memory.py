"""What fits into a device's memory, and what is said when something did not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch

from imagegen_core.errors import OutOfMemoryError
from imagegen_core.request import Size
from imagegen_core.resources.memory import system_memory
from imagegen_core.worker import DeviceMemory

_ADVICE = (
    "ask for a smaller size, set CUDA_DTYPE=fp16, CUDA_ENABLE_XFORMERS=1 or CUDA_ATTENTION_SLICING=1, "
    "or use a device with more memory"
)
_SPARE = 0.85  # of the free memory may be planned with
_PROCESS = 500_000_000  # bytes: a server with the demo, at rest, takes 0.42 GB; a CUDA context takes about as much
# Of a full-size feature map that live at the peak: with the demo on a CPU, at 512 and 1024 px, in fp32 and bf16, it
# was 26 to 34 and 6.2 to 7.8.
_UNET_COPIES, _VAE_COPIES = 32, 8


def row_bytes(pipe: Any, size: Size) -> int:
    """The memory that one more row of a forward pass takes at its peak, roughly."""
    channels = pipe.unet.config.block_out_channels[0]
    scale = pipe.vae_scale_factor
    item = pipe.unet.conv_in.weight.dtype.itemsize  # the module's own dtype is looked for in all its layers
    return int(_UNET_COPIES * channels * (size.width // scale) * (size.height // scale) * item)


def decoding_bytes(pipe: Any, size: Size) -> int:
    """The memory that decoding one picture takes at its peak, roughly."""
    channels = max(pipe.vae.config.block_out_channels[:2])
    item = pipe.vae.decoder.conv_in.weight.dtype.itemsize
    return int(_VAE_COPIES * channels * size.width * size.height * item)


def weight_bytes(pipe: Any) -> int:
    """The memory that a pipeline's parameters and buffers take; tensors of one storage count once.

    Of the device's memory before and after a load the difference would also hold what is drawn meanwhile.
    """
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    tensors = chain.from_iterable(chain(module.parameters(), module.buffers()) for module in modules)
    storages = {storage.data_ptr(): storage.nbytes() for tensor in tensors if (storage := tensor.untyped_storage())}
    return sum(storages.values())


def device_memory(device: torch.device) -> DeviceMemory:
    """What there is on `device`, in all and free."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        name = torch.cuda.get_device_name(device)
        if torch.cuda.device_count() > 1:  # often alike
            name = f"{name} (cuda:{device.index or 0})"
        return DeviceMemory(name, total, free)
    memory = system_memory()
    return DeviceMemory(str(device), memory.total, memory.available)


def free_bytes(device: torch.device) -> int:
    """The memory that is free on `device` now, with what torch holds in reserve."""
    if device.type == "cuda":
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + reserve)
    return system_memory().available


def check_fits(pipe: Any, size: Size, device: torch.device, weights: int) -> None:
    """Refuse a picture that could only end with the process killed.

    Args:
        pipe: The diffusers pipeline.
        size: The picture's.
        device: Where it computes.
        weights: Bytes that the pipeline's weights take there.

    Raises:
        OutOfMemoryError: It takes more memory than the device has beside the model.
    """
    needed = row_bytes(pipe, size) + decoding_bytes(pipe, size)
    total = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else system_memory().total
    room = max(0, total - weights - _PROCESS)
    if needed > room:
        raise OutOfMemoryError(
            f"A picture of {size} takes about {needed / 1e9:.1f} GB of memory, and {device} has {room / 1e9:.1f} GB "
            f"beside the model: {_ADVICE}"
        )


def rows_that_fit(pipe: Any, size: Size, device: torch.device) -> int:
    """How many rows a forward pass may have in the memory that is free now, from 1."""
    return max(1, int(_SPARE * free_bytes(device) / row_bytes(pipe, size)))


def decoding_fits(pipe: Any, size: Size, device: torch.device) -> bool:
    """Whether a picture can be decoded in one piece in the memory that is free now."""
    return decoding_bytes(pipe, size) <= _SPARE * free_bytes(device)


@contextmanager
def memory_errors(size: Size) -> Iterator[None]:
    """Turn torch's errors about memory into one that says what to do.

    Raises:
        OutOfMemoryError: A picture of `size` did not fit.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(size) from error
    except RuntimeError as error:
        if "not enough memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        raise _out_of_memory(size) from error


def _out_of_memory(size: Size) -> OutOfMemoryError:
    return OutOfMemoryError(f"The memory did not take a picture of {size}: {_ADVICE}")
