"""Estimate the memory of pictures, check it against the device, and explain memory errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from imagegen_core.diffusion.stored_weights import stored_parts
from imagegen_core.errors import OutOfMemoryError
from imagegen_core.memory_plan import PROCESS_BYTES, SPARE
from imagegen_core.request import Size
from imagegen_core.resources.memory import system_memory
from imagegen_core.worker import DeviceMemory

_ADVICE = (
    "ask for a smaller size, set IMAGEGEN_WEIGHT_STORAGE=int8, CUDA_DTYPE=fp16, CUDA_ENABLE_XFORMERS=1, "
    "CUDA_ATTENTION_SLICING=1 or IMAGEGEN_VAE_TILING=1, or use a device with more memory"
)
# The number of full-size feature maps in memory at the peak. Measured on a CPU with the released networks, at 512 and
# 1024 px, in bf16: 37 for a UNet with attention at full size, 19 for a UNet without it, and in bf16 and fp32 4.2 to 5.7
# for the VAE's decoder and 3.0 to 3.9 for its encoder. The demo's UNet takes 26 to 34: see docs/small-memory.md.
UNET_COPIES, FLAT_UNET_COPIES, DECODER_COPIES, ENCODER_COPIES = 40, 32, 6, 4.2
# torch's messages, then oneDNN's: an unsupported primitive already fails as a "primitive descriptor".
_MEMORY_ERRORS = (
    "not enough memory",
    "can't allocate memory",
    "could not create a primitive\n",
    "could not create a memory",
    "could not execute a primitive",
)
_UNIT = Size(64, 64)
_GRAIN = 512 * 512  # pixels: the unit of `whole_pixels`, so that machines of nearly the same memory agree
# Copies of all tokens of a picture: 12 to 26, measured with small transformers at 512 and 1024 px.
TRANSFORMER_COPIES = 24


def unet_row_bytes(unet: Any, latents: int) -> int:
    """Estimate the peak memory of one more row in a forward pass of a UNet, in bytes; `latents` is height by width."""
    item = unet.conv_in.weight.dtype.itemsize  # the module's own dtype property searches all its layers
    copies = UNET_COPIES if unet.config.down_block_types[0].startswith("CrossAttn") else FLAT_UNET_COPIES
    return int(copies * unet.config.block_out_channels[0] * latents * item)


def token_bytes(transformer: Any) -> int:
    """Estimate the peak memory of one more token in a forward pass of a transformer, in bytes.

    The network's width is the smaller side of its largest linear layer.
    """
    linear = [weight for weight in transformer.parameters() if weight.ndim == 2]  # noqa: PLR2004 - a matrix
    largest = max(linear, key=torch.numel)
    return int(TRANSFORMER_COPIES * min(largest.shape) * largest.dtype.itemsize)


def decoding_bytes(vae: Any, size: Size) -> int:
    """Estimate the peak memory to decode one picture with an autoencoder, in bytes."""
    return int(DECODER_COPIES * _map_bytes(vae, size))


def encoding_bytes(vae: Any, size: Size) -> int:
    """Estimate the peak memory to encode one picture with an autoencoder, in bytes."""
    return int(ENCODER_COPIES * _map_bytes(vae, size))


def _map_bytes(vae: Any, size: Size) -> int:
    """Return the bytes of the largest feature map at full size."""
    channels = max(vae.config.block_out_channels[:2])
    return int(channels * size.width * size.height * next(vae.decoder.parameters()).dtype.itemsize)


def weight_bytes(pipe: Any, *others: torch.nn.Module) -> int:
    """Return the memory of a pipeline's and other networks' weights, in bytes; tensors with one storage count once.

    Weights that are packed for oneDNN have no storage: their layers state `packed_bytes`.

    Tensors without values, on the meta device, do not count. The difference in device memory before and after a load is
    no substitute: it includes pictures in progress.
    """
    modules = [part for part in (*pipe.components.values(), *others) if isinstance(part, torch.nn.Module)]
    tensors = chain.from_iterable(chain(module.parameters(), module.buffers()) for module in modules)
    storages = (part.untyped_storage() for tensor in tensors if not tensor.is_meta for part in stored_parts(tensor))
    packed = sum(getattr(layer, "packed_bytes", 0) for module in modules for layer in module.modules())
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values()) + packed


def tensor_bytes(tensor: Tensor) -> int:
    """Return the memory of a tensor as it is stored, in bytes."""
    return sum(part.nbytes for part in stored_parts(tensor))


def total_bytes(device: torch.device) -> int:
    """Return the total memory of `device` in bytes; all but CUDA devices share the main memory."""
    return int(torch.cuda.mem_get_info(device)[1]) if device.type == "cuda" else system_memory().total


def device_memory(device: torch.device) -> DeviceMemory:
    """Return the name of `device`, and its total and free memory."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        name = torch.cuda.get_device_name(device)
        if torch.cuda.device_count() > 1:  # several GPUs are often of one model
            name = f"{name} (cuda:{device.index or 0})"
        return DeviceMemory(name, total, free)
    memory = system_memory()
    return DeviceMemory(str(device), memory.total, memory.available)


def free_bytes(device: torch.device) -> int:
    """Return the free memory of `device` in bytes, including torch's reserve."""
    if device.type == "cuda":
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + reserve)
    return system_memory().available


def check_fits(needed: int, size: Size, device: torch.device, total: int, weights: int) -> None:
    """Refuse a picture that is too large for the device: the system would kill the process.

    Args:
        needed: The peak memory of the picture, in bytes.
        size: The picture's size.
        device: The pipeline's device.
        total: The planned memory of the device, in bytes.
        weights: The memory of the pipeline's weights there, in bytes.

    Raises:
        OutOfMemoryError: The picture takes more memory than the device has next to the model.
    """
    room = max(0, total - weights - PROCESS_BYTES)
    if needed > room:
        raise OutOfMemoryError(
            f"A picture of {size} takes about {needed / 1e9:.1f} GB of memory, and {device} has {room / 1e9:.1f} GB "
            f"beside the model: {_ADVICE}"
        )


def rows_that_fit(row_bytes: int, device: torch.device, total: int, weights: int) -> int:
    """Return how many rows of a forward pass fit in the free memory, at least 1.

    Args:
        row_bytes: The memory of a row, in bytes.
        device: The pipeline's device.
        total: See `check_fits`.
        weights: See `check_fits`.
    """
    free = min(free_bytes(device), max(0, total - weights - PROCESS_BYTES))
    return max(1, int(SPARE * free / row_bytes))


def whole_pixels(vae: Any, room: int) -> int:
    """Return the largest picture that an autoencoder may decode in one piece, in pixels.

    Args:
        vae: The autoencoder.
        room: The bytes beside the weights. They follow from the device's total memory: free memory would make a picture
            depend on its company.
    """
    pixels = room * _UNIT.width * _UNIT.height / decoding_bytes(vae, _UNIT)
    return max(0, int(pixels / _GRAIN)) * _GRAIN


def check_decoding_fits(vae: Any, size: Size, piece: Size, device: torch.device) -> None:
    """Refuse to decode a picture if the free memory is too small for a piece of it: the system would kill the process.

    Raises:
        OutOfMemoryError: The free memory is too small.
    """
    _check_free(f"Decoding a picture of {size}", decoding_bytes(vae, piece), device)


def check_encoding_fits(vae: Any, size: Size, piece: Size, device: torch.device) -> None:
    """Refuse to encode a picture if the free memory is too small for a piece of it.

    Raises:
        OutOfMemoryError: The free memory is too small.
    """
    _check_free(f"Encoding an image of {size}", encoding_bytes(vae, piece), device)


def _check_free(work: str, needed: int, device: torch.device) -> None:
    free = free_bytes(device)
    if needed > free:
        raise OutOfMemoryError(
            f"{work} takes about {needed / 1e9:.1f} GB of memory, and {device} has {free / 1e9:.1f} GB free: ask again "
            f"with fewer other models and programs in memory, or {_ADVICE}"
        )


@contextmanager
def memory_errors(size: Size) -> Iterator[None]:
    """Turn torch's memory errors into an error with advice.

    Raises:
        OutOfMemoryError: A picture of `size` did not fit.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(size) from error
    except RuntimeError as error:
        if not any(words in f"{error}\n" for words in _MEMORY_ERRORS):
            raise
        raise _out_of_memory(size) from error


def _out_of_memory(size: Size) -> OutOfMemoryError:
    return OutOfMemoryError(f"The memory did not take a picture of {size}: {_ADVICE}")
