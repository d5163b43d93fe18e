"""The header of a weights file: names, element types and shapes, without the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

# Element types by their safetensors names: torch's name, and the bits of one element.
DTYPES = {
    "BOOL": ("bool", 8),
    "F4": ("float4_e2m1fn_x2", 4),
    "F6_E2M3": ("float6_e2m3", 6),
    "F6_E3M2": ("float6_e3m2", 6),
    "U8": ("uint8", 8),
    "I8": ("int8", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "I16": ("int16", 16),
    "U16": ("uint16", 16),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "I32": ("int32", 32),
    "U32": ("uint32", 32),
    "F32": ("float32", 32),
    "C64": ("complex64", 64),
    "F64": ("float64", 64),
    "I64": ("int64", 64),
    "U64": ("uint64", 64),
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's description.

    Attributes:
        dtype: The element type by torch's name, such as ``float16``; in a GGUF file also a quantization's name, such as
            ``q8_0``.
        shape: Its extents; ``()`` for a single number.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Span:
    """The location of a tensor's elements.

    Attributes:
        begin: The byte of the first element, counted from the start of the file or of the compressed record.
        strides: The elements from one index to the next, for each dimension; None if the tensor is contiguous.
        record: The compressed record of a zip archive that holds them; None if they are stored uncompressed.
    """

    begin: int
    strides: tuple[int, ...] | None = None
    record: str | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a weights file.

    Attributes:
        path: The file.
        format: ``safetensors``, ``gguf``, ``torch`` (a zip archive) or ``torch-legacy`` (before torch 1.6).
        tensors: Its tensors by name.
        metadata: The texts in the header of a safetensors or GGUF file, such as ``modelspec.resolution``.
        spans: The location of each tensor in the file.
    """

    path: Path
    format: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    spans: Mapping[str, Span] = field(default_factory=dict)


def elements_within(shape: tuple[int, ...], limit: int) -> int:
    """Return the number of elements of `shape`, or any number above `limit` if there are more.

    A header may list a million extents of a billion each. Their product would take hours.
    """
    if 0 in shape:
        return 0
    product = 1
    for extent in shape:
        product *= extent
        if product > limit:
            break
    return product


def quoted(name: object) -> str:
    """Quote a name from an untrusted file for a one-line message."""
    text = repr(name)
    return text if len(text) <= 80 else f"{text[:77]}..."  # noqa: PLR2004 - a line of a terminal
