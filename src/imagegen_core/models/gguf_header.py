"""The tensor table of a GGUF file: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from imagegen_core.errors import ModelLoadError
from imagegen_core.models.tensors import Header, Span, Tensor, elements_within, quoted

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT = 32  # of the data, unless the file states another
_LARGEST_HEADER = 100_000_000  # in bytes, as for a safetensors file
_MOST_EXTENTS = 4
_STRING, _ARRAY = 8, 9
# The kinds of values by their numbers, in struct's letters.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
# Converters store a tensor whose rows do not divide into blocks under another shape, and its own shape here.
_OWN_SHAPE = "comfy.gguf.orig_shape."


class Block(NamedTuple):
    """An element type of GGUF files.

    Attributes:
        name: torch's name, or the quantization's name in lower case.
        elements: The number of elements in a block.
        size: The bytes of a block.
    """

    name: str
    elements: int
    size: int


# https://github.com/ggml-org/ggml/blob/master/include/ggml.h, enum ggml_type, and ggml-common.h for the blocks
_TYPES: Mapping[int, Block] = {
    0: Block("float32", 1, 4),
    1: Block("float16", 1, 2),
    2: Block("q4_0", 32, 18),
    3: Block("q4_1", 32, 20),
    6: Block("q5_0", 32, 22),
    7: Block("q5_1", 32, 24),
    8: Block("q8_0", 32, 34),
    10: Block("q2_k", 256, 84),
    11: Block("q3_k", 256, 110),
    12: Block("q4_k", 256, 144),
    13: Block("q5_k", 256, 176),
    14: Block("q6_k", 256, 210),
    16: Block("iq2_xxs", 256, 66),
    17: Block("iq2_xs", 256, 74),
    18: Block("iq3_xxs", 256, 98),
    19: Block("iq1_s", 256, 50),
    20: Block("iq4_nl", 32, 18),
    21: Block("iq3_s", 256, 110),
    22: Block("iq2_s", 256, 82),
    23: Block("iq4_xs", 256, 136),
    24: Block("int8", 1, 1),
    25: Block("int16", 1, 2),
    26: Block("int32", 1, 4),
    27: Block("int64", 1, 8),
    28: Block("float64", 1, 8),
    29: Block("iq1_m", 256, 56),
    30: Block("bfloat16", 1, 2),
}
QUANTIZATIONS: Mapping[str, Block] = {block.name: block for block in _TYPES.values() if block.elements > 1}
"""The types whose elements are stored in blocks, by name."""


def read_gguf(path: Path) -> Header:
    """Read the tensor table, and check it against the file's length.

    Shapes are torch's, with the fastest index last. The metadata has the file's texts, such as
    ``general.architecture``.

    Raises:
        ModelLoadError: The file is cut short, damaged, or stores a tensor in an unknown way.
        OSError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return _read(path, file)
    except _DamagedError as error:
        raise ModelLoadError(f"{path} is not a complete GGUF file: {error}; copy or download it again") from error


class _DamagedError(Exception):
    """A fault in a header."""


class _Reader:
    """Reads the header's values one after another."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self.size = file, min(size, _LARGEST_HEADER)

    @property
    def position(self) -> int:
        return self._file.tell()

    def number(self, letter: str) -> Any:
        return self.numbers(letter, 1)[0]

    def numbers(self, letter: str, count: int) -> tuple[Any, ...]:
        length = struct.calcsize(letter) * count
        return struct.unpack(f"<{count}{letter}", self._take(length))

    def text(self) -> str:
        return str(self._take(self.number("Q")), "utf-8", "replace")

    def value(self, kind: int) -> Any:
        """Return a text, a number or a tuple of numbers; None for a list of anything else."""
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.number("I"), self.number("Q")
            if inner in _NUMBERS:
                return self.numbers(_NUMBERS[inner], self._at_most(count))
            if inner == _ARRAY:
                raise _DamagedError("its header has a list of lists")
            for _ in range(self._at_most(count)):
                self.value(inner)
            return None
        if kind not in _NUMBERS:
            raise _DamagedError(f"its header has a value of the unknown kind {kind}")
        return self.number(_NUMBERS[kind])

    def _take(self, length: int) -> bytes:
        if length > self.size - self.position:
            raise _DamagedError(f"its header takes {length} bytes from byte {self.position}, and {self.size} are there")
        return self._file.read(length)

    def _at_most(self, count: int) -> int:
        """Check a number of values, each of a byte at least."""
        if count > self.size:
            raise _DamagedError(f"its header counts {count} values in {self.size} bytes")
        return count


def _read(path: Path, file: BinaryIO) -> Header:
    size = os.fstat(file.fileno()).st_size
    reader = _Reader(file, size)
    if (magic := reader.numbers("c", len(MAGIC))) != tuple(bytes([byte]) for byte in MAGIC):
        raise _DamagedError(f"it begins with {b''.join(magic)!r}")
    if (version := reader.number("I")) not in _VERSIONS:
        raise _DamagedError(f"its version is {version}, and {_VERSIONS[0]} and {_VERSIONS[1]} are read")
    tensor_count, field_count = reader.numbers("Q", 2)
    fields: dict[str, Any] = {}
    for _ in range(field_count):
        name = reader.text()
        fields[name] = reader.value(reader.number("I"))
    entries = [_entry(path, reader) for _ in range(tensor_count)]
    begin = -(-reader.position // _alignment(fields)) * _alignment(fields)
    tensors, spans, ends = {}, {}, []
    for name, shape, block, offset in entries:
        if name in tensors:
            raise _DamagedError("its header names something twice")
        tensors[name] = Tensor(block.name, _own_shape(name, shape, fields))
        spans[name] = Span(begin + offset)
        ends.append((offset, _size(name, shape, block, size), name))
    _check_places(sorted(ends), size - begin)
    return Header(path, "gguf", tensors, {name: text for name, text in fields.items() if isinstance(text, str)}, spans)


def _entry(path: Path, reader: _Reader) -> tuple[str, tuple[int, ...], Block, int]:
    """Return a tensor's name, its shape in torch's order, its type and its offset in the data."""
    name, count = reader.text(), reader.number("I")
    if count > _MOST_EXTENTS:
        raise _DamagedError(f"tensor {quoted(name)} has {count} dimensions, and the format allows {_MOST_EXTENTS}")
    extents = reader.numbers("Q", count)
    kind, offset = reader.number("I"), reader.number("Q")
    if kind not in _TYPES:
        raise ModelLoadError(
            f"{path} stores the tensor {quoted(name)} as GGML's type {kind}, a quantization that is not read here: "
            "take a version in Q8_0, Q5_K, Q4_K or another common quantization"
        )
    return name, extents[::-1], _TYPES[kind], offset


def _alignment(fields: Mapping[str, Any]) -> int:
    stated = fields.get("general.alignment", _ALIGNMENT)
    if not isinstance(stated, int) or stated <= 0:
        raise _DamagedError(f"its data is aligned to {stated!r} bytes")
    return stated


def _own_shape(name: str, shape: tuple[int, ...], fields: Mapping[str, Any]) -> tuple[int, ...]:
    own: tuple[int, ...] | None = fields.get(_OWN_SHAPE + name)
    if own is None:
        return shape
    is_shape = isinstance(own, tuple) and all(isinstance(extent, int) and extent > 0 for extent in own)
    elements = elements_within(shape, limit=2**62)
    if not is_shape or elements_within(own, limit=elements) != elements:
        raise _DamagedError(f"tensor {quoted(name)} has the shape {list(shape)}, which {_OWN_SHAPE}… contradicts")
    return own


def _size(name: str, shape: tuple[int, ...], block: Block, file_size: int) -> int:
    """Return the bytes of a tensor, or any number above the file's size."""
    elements = elements_within(shape, limit=file_size * block.elements)
    if elements % block.elements:
        raise _DamagedError(f"tensor {quoted(name)} does not divide into blocks of {block.elements} elements")
    return elements // block.elements * block.size


def _check_places(spans: list[tuple[int, int, str]], size: int) -> None:
    for begin, length, name in spans:
        if begin + length > size:
            raise _DamagedError(
                f"tensor {quoted(name)} ends at byte {begin + length} of the data, and the file holds {max(0, size)} "
                "of them"
            )
    for (begin, length, _), (following, _, name) in pairwise(spans):
        if begin + length > following:
            raise _DamagedError(f"tensor {quoted(name)} overlaps the one before it in the data")
