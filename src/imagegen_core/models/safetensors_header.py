"""The tensor table of a ``.safetensors`` file, checked as strictly as the format requires.

The format: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from imagegen_core.errors import ModelLoadError
from imagegen_core.models.tensors import DTYPES, Header, Span, Tensor, elements_within, quoted

_LENGTH_BYTES = 8
_LONGEST_HEADER = 100_000_000  # the format's own limit, in bytes
_METADATA = "__metadata__"


def read_safetensors(path: Path) -> Header:
    """Read the header, and check it against the file's length.

    Raises:
        ModelLoadError: The file is cut short, damaged, or its header contradicts itself.
        OSError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = _header_length(file.read(_LENGTH_BYTES), size)
            entries = _parse(file.read(length))
        metadata = _metadata(entries.pop(_METADATA, None))
        begin = _LENGTH_BYTES + length
        tensors = _tensors(entries, size - begin)
        spans = {name: Span(begin + entries[name]["data_offsets"][0]) for name in tensors}
        return Header(path, "safetensors", tensors, metadata, spans)
    except _HeaderError as error:
        raise ModelLoadError(
            f"{path} is not a complete safetensors file: {error}; copy or download it again"
        ) from error


class _HeaderError(Exception):
    """A fault in a header."""


def _header_length(prefix: bytes, size: int) -> int:
    if len(prefix) < _LENGTH_BYTES:
        raise _HeaderError(f"it has {size} bytes, and the length of its header alone takes {_LENGTH_BYTES}")
    length = int.from_bytes(prefix, "little")
    if length > _LONGEST_HEADER:
        raise _HeaderError(f"it begins with a header length of {length}, and the format allows {_LONGEST_HEADER} bytes")
    if length > size - _LENGTH_BYTES:
        raise _HeaderError(
            f"its header should have {length} bytes, and the file ends after {size - _LENGTH_BYTES} of them"
        )
    return length


def _parse(header: bytes) -> dict[str, Any]:
    if not header.startswith(b"{"):
        raise _HeaderError("its header does not begin with '{'")
    try:
        entries = json.loads(header.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _HeaderError(f"its header is not a JSON object ({error})") from error
    return entries  # type: ignore[no-any-return]  # it begins with '{', so it is an object


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise _HeaderError("its header names something twice")
    return entries


def _metadata(entry: Any) -> dict[str, str]:
    if entry is None:
        return {}
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise _HeaderError(f"its {_METADATA} is not an object of texts")
    return entry


def _tensors(entries: dict[str, Any], size: int) -> dict[str, Tensor]:
    """Return the tensors, which must fill `size` bytes of data without overlap or gap."""
    tensors = {}
    spans = []
    for name, entry in entries.items():
        tensors[name], span = _tensor(name, entry, size)
        spans.append((*span, name))
    end = _covered(sorted(spans))
    if end != size:
        raise _HeaderError(f"its tensors end at byte {end} of the data, and the file holds {size} of them")
    return tensors


def _tensor(name: str, entry: Any, size: int) -> tuple[Tensor, tuple[int, int]]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _HeaderError(f"tensor {quoted(name)} is not described by dtype, shape and data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise _HeaderError(f"tensor {quoted(name)} has the unknown dtype {quoted(code)}")
    if not _are_counts(shape):
        raise _HeaderError(f"tensor {quoted(name)} has a shape that is not a list of sizes")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:  # noqa: PLR2004 - begin and end
        raise _HeaderError(f"tensor {quoted(name)} has data_offsets that are not a begin and an end")
    begin, end = offsets
    if end > size:
        raise _HeaderError(
            f"tensor {quoted(name)} ends at byte {quoted(end)} of the data, and the file holds {size} of them"
        )
    dtype, bits = DTYPES[code]
    if elements_within(tuple(shape), limit=8 * size) * bits != 8 * (end - begin):
        raise _HeaderError(f"tensor {quoted(name)} has {end - begin} bytes, which its dtype and shape do not fill")
    return Tensor(dtype, tuple(shape)), (begin, end)


def _are_counts(value: Any) -> bool:
    # The exact type is required, since JSON's true would pass for 1.
    return isinstance(value, list) and all(type(count) is int and count >= 0 for count in value)


def _covered(spans: Iterable[tuple[int, int, str]]) -> int:
    """Return the end of the last of the sorted spans, in bytes."""
    position = 0
    for begin, end, name in spans:
        if begin != position:
            fault = "overlaps the one before it" if begin < position else "leaves a hole before it"
            raise _HeaderError(f"tensor {quoted(name)} {fault} in the data")
        position = end
    return position
