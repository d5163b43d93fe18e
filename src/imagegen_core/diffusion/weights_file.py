"""Read the tensors of weights files, one at a time, each into its own memory.

No file is mapped: a mapped file that another program truncates or overwrites ends the process with SIGBUS.
"""

from __future__ import annotations

import math
import os
import threading
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from imagegen_core.diffusion.gguf_blocks import read_blocks
from imagegen_core.diffusion.host_tensor import host_tensor
from imagegen_core.errors import ModelLoadError
from imagegen_core.models.gguf_header import QUANTIZATIONS, Block
from imagegen_core.models.headers import read_header
from imagegen_core.models.networks.parts import unwrapped
from imagegen_core.models.networks.source import Rows
from imagegen_core.models.tensors import Header, Span, Tensor, quoted

# The numbers to read and convert at a time: enough for all cores, and few enough for their caches.
_CHUNK = 2**19
_KERNEL = 4  # the dimensions of a convolution's weight


class WeightsFile:
    """A weights file of any format, open for reading; a context manager.

    Attributes:
        path: The file.
        identity: A value that changes if the file is written to or replaced.
        header: The file's description of its tensors.
    """

    def __init__(self, path: Path) -> None:
        """Open the file and read its header.

        Raises:
            ModelLoadError: The file is no weights file, is damaged, or its pickle asks for more than weights need.
        """
        self.path = path
        self.identity = _stamp(path)
        self.header: Header = read_header(path)
        self._buffers = threading.local()
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise ModelLoadError(f"Cannot read {path}: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def check_unchanged(self) -> None:
        """Check that the file has not changed since its header was read.

        Raises:
            ModelLoadError: The file was changed, so that the tensors may come from two versions.
        """
        if _stamp(self.path) != self.identity:
            raise ModelLoadError(f"{self.path} was changed while it was read: load it again once it is complete")

    def read(
        self,
        name: str,
        dtype: torch.dtype | None = None,
        rows: Rows | None = None,
        *,
        channels_last: bool = False,
    ) -> torch.Tensor:
        """Read a tensor into its own memory.

        Args:
            name: The tensor's name in the file.
            dtype: The dtype to convert to; None keeps the file's element type, or takes fp32 for a quantization.
            rows: The rows to read; None reads all.
            channels_last: Whether a convolution kernel [outputs, inputs, height, width] has its inputs last in memory.

        Raises:
            ModelLoadError: The file ends early, or its element type is not read here.
            PluginError: The file is quantized, and the library gguf is not installed.
        """
        tensor, span = self.header.tensors[name], self.header.spans[name]
        if block := QUANTIZATIONS.get(tensor.dtype):
            return _with_layout(self._read_quantized(name, block, dtype or torch.float32, rows), channels_last)
        stored = getattr(torch, tensor.dtype, None)
        if stored is None:
            raise ModelLoadError(
                f"{self.path}: the tensor {quoted(name)} is stored as {tensor.dtype}, which the installed torch "
                f"{torch.__version__} does not have"
            )
        if span.strides is None and span.record is None:
            tensor, span = _of_rows(tensor, span, rows, stored)
            return self._read_plain(tensor.shape, span.begin, stored, dtype or stored, channels_last)
        whole = self._read_view(tensor, span, stored)
        part = whole if rows is None else whole[slice(*rows)].clone()
        return _with_layout(part.to(dtype or stored), channels_last)

    def _read_plain(
        self,
        shape: Sequence[int],
        place: int,
        stored: torch.dtype,
        dtype: torch.dtype,
        channels_last: bool,
    ) -> torch.Tensor:
        """Read a contiguous tensor from byte `place` on, and convert it in pieces."""
        if channels_last and len(shape) == _KERNEL:
            outputs, inputs, height, width = shape
            lines = host_tensor((outputs, height, width, inputs), dtype)
            self._read_numbers(lines.view(-1), place, stored, (inputs, height * width))
            return lines.permute(0, 3, 1, 2)
        result = host_tensor(shape, dtype)
        self._read_numbers(result.view(-1), place, stored)
        return result

    def _read_numbers(
        self, target: torch.Tensor, place: int, stored: torch.dtype, turned: tuple[int, int] = (1, 1)
    ) -> None:
        """Read numbers from byte `place` on, and transpose each matrix of the shape `turned`."""
        is_turned = 1 not in turned
        if stored == target.dtype and not is_turned:
            self._fill(target.view(torch.uint8) if len(target) else target, place)
            return
        matrix = math.prod(turned) if is_turned else 1
        step = max(1, _CHUNK // matrix) * matrix
        count = min(step, len(target))
        chunk = self._buffer("read", count, stored)
        # torch converts fp16 to bf16 number by number, and by way of fp32 the same bits come in a sixth of the time.
        by_fp32 = (stored, target.dtype) == (torch.float16, torch.bfloat16)
        between = self._buffer("between", count, torch.float32) if by_fp32 else None
        converted = self._buffer("converted", count, target.dtype) if is_turned else None
        for begin in range(0, len(target), step):
            part = target[begin : begin + step]
            numbers = chunk[: len(part)]
            self._fill(numbers.view(torch.uint8), place + begin * stored.itemsize)
            if between is not None:
                numbers = between[: len(part)].copy_(numbers)
            if converted is None:
                part.copy_(numbers)
            else:
                numbers = converted[: len(part)].copy_(numbers)
                part.view(-1, *reversed(turned)).copy_(numbers.view(-1, *turned).transpose(1, 2))

    def _buffer(self, name: str, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Return a row of numbers for a conversion; this thread gets the same memory again for the next tensor."""
        buffers, size = vars(self._buffers), count * dtype.itemsize
        if name not in buffers or len(buffers[name]) < size:
            buffers[name] = host_tensor((max(size, 4 * _CHUNK),), torch.uint8)
        buffer: torch.Tensor = buffers[name][:size]
        return buffer.view(dtype)

    def _read_quantized(self, name: str, block: Block, dtype: torch.dtype, rows: Rows | None) -> torch.Tensor:
        tensor, span = self.header.tensors[name], self.header.spans[name]
        width = tensor.elements // max(1, tensor.shape[0]) if tensor.shape else 1
        if rows is not None and rows[0] * width % block.elements == rows[1] * width % block.elements == 0:
            tensor = replace(tensor, shape=(rows[1] - rows[0], *tensor.shape[1:]))
            span = replace(span, begin=span.begin + rows[0] * width // block.elements * block.size)
            rows = None
        result = host_tensor(tensor.shape, dtype)
        read_blocks(self.path, name, block, result.view(-1), lambda part, offset: self._fill(part, span.begin + offset))
        return result if rows is None else result[slice(*rows)].clone()

    def _read_view(self, tensor: Tensor, span: Span, stored: torch.dtype) -> torch.Tensor:
        """Read a tensor with strides, or a tensor in a compressed record."""
        strides = span.strides or torch.empty(tensor.shape, device="meta").stride()
        steps = zip(tensor.shape, strides, strict=True)
        elements = 1 + sum((extent - 1) * step for extent, step in steps) if tensor.elements else 0
        run = torch.empty(elements, dtype=stored)
        if span.record is None:
            self._fill(run.view(torch.uint8) if elements else run, span.begin)
        else:
            data = self._unpacked(span.record)[span.begin : span.begin + elements * stored.itemsize]
            run = torch.frombuffer(bytearray(data), dtype=stored) if elements else run
        return run.as_strided(tensor.shape, strides).contiguous()

    def _unpacked(self, record: str) -> bytes:
        try:
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(record)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ModelLoadError(f"{self.path} is damaged ({error}): copy or download it again") from error

    def _fill(self, target: torch.Tensor, begin: int) -> None:
        """Read bytes from byte `begin` on until `target`, one row of uint8, is full; several threads may do so."""
        rest = memoryview(target.numpy().data) if len(target) else memoryview(b"")
        try:
            while rest:
                if not (count := os.preadv(self._file.fileno(), [rest], begin)):
                    raise ModelLoadError(f"{self.path} ends in the middle of its weights: copy or download it again")
                rest, begin = rest[count:], begin + count
        except OSError as error:
            raise ModelLoadError(f"Cannot read {self.path}: {error.strerror}; check the disk it lies on") from error


class LazyTensors(Mapping[str, torch.Tensor]):
    """The tensors of an open file by name, without a wrapper's prefix; each is read on access."""

    def __init__(self, file: WeightsFile) -> None:
        self._file = file
        self._names = unwrapped({name: name for name in file.header.tensors})

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._file.read(self._names[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _of_rows(tensor: Tensor, span: Span, rows: Rows | None, stored: torch.dtype) -> tuple[Tensor, Span]:
    """Describe some rows of a contiguous tensor as a tensor of their own."""
    if rows is None:
        return tensor, span
    begin, end = rows
    row_bytes = tensor.elements // tensor.shape[0] * stored.itemsize
    return (
        replace(tensor, shape=(end - begin, *tensor.shape[1:])),
        replace(span, begin=span.begin + begin * row_bytes),
    )


def _with_layout(tensor: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """Return a tensor in channels last if it is asked for and has such a layout."""
    if channels_last and tensor.ndim == _KERNEL:
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Return a value that changes if the file is written to or replaced; None if the file is gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
