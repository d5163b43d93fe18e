"""The tensor table of a torch file (``.ckpt``, ``.pt``, ``.pth``, ``.bin``), read without running its pickle.

``torch/serialization.py`` describes the two formats. The first is a zip archive with a pickle in ``data.pkl`` and a
record per storage. The second, from before torch 1.6, has five pickles and then the storages.
"""

from __future__ import annotations

import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from imagegen_core.errors import ModelLoadError
from imagegen_core.models.pickled import BITS, DamagedPickleError, RefusedPickleError, Storage, View
from imagegen_core.models.tensors import Header, Span, quoted
from imagegen_core.models.unpickling import unpickle

_LONGEST_PICKLE = 16 * 2**20  # in bytes; a checkpoint's pickle takes half a megabyte
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_LENGTH_BYTES = 8  # before each storage's elements
_LOCAL_HEADER = struct.Struct("<26x2H")  # of a zip's record: the lengths of its name and of its extra field
# Keys around the weights, from training runs or upscalers' authors.
_WRAPPERS = ("state_dict", "model", "module", "params_ema", "params")
_DEPTH = 3


def read_torch(path: Path) -> Header:
    """Read the tensor table; for a Lightning checkpoint, the part below ``state_dict``.

    Raises:
        ModelLoadError: The file is cut short, damaged, or its pickle asks for more than weights need.
        OSError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"
        content, places = _read_zip(path) if is_zip else _read_legacy(path)
    except RefusedPickleError as error:
        raise ModelLoadError(
            f"{path} is refused: its pickle asks for {error}, which weights do not need and which could run code; "
            "take the .safetensors version of it, or one saved as a plain state dict"
        ) from error
    except DamagedPickleError as error:
        raise ModelLoadError(f"{path} is not a complete torch file: {error}; copy or download it again") from error
    views = dict(_views(content))
    tensors = {name: view.tensor for name, view in views.items()}
    spans = {name: _span(view, places) for name, view in views.items()}
    return Header(path, "torch" if is_zip else "torch-legacy", tensors, spans=spans)


def _span(view: View, places: Mapping[str, Span]) -> Span:
    """Locate a view's elements by the place of its storage."""
    shape, place = view.tensor.shape, places[view.storage]
    steps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]  # of a contiguous tensor
    is_plain = all(own == step or extent == 1 for own, step, extent in zip(view.strides, steps, shape, strict=True))
    begin = place.begin + view.offset * BITS[view.tensor.dtype] // 8
    return Span(begin, None if is_plain else view.strides, place.record)


def _read_zip(path: Path) -> tuple[object, dict[str, Span]]:
    """Return the content of the archive's pickle, and the places of the storages."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = {record.filename: record for record in archive.infolist()}
            pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise DamagedPickleError(f"it is a zip archive with {len(pickles)} data.pkl where there is one")
            if records[pickles[0]].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DamagedPickleError("its zip archive is packed in a way that torch does not read")
            with archive.open(pickles[0]) as record:
                program = record.read(_LONGEST_PICKLE + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise DamagedPickleError(f"its zip archive is damaged ({error})") from error
    if len(program) > _LONGEST_PICKLE:
        raise DamagedPickleError(f"its pickle is longer than {_LONGEST_PICKLE} bytes")
    storages: dict[str, Storage] = {}
    content = unpickle(BytesIO(program), storages)
    folder = pickles[0].removesuffix("data.pkl")
    with path.open("rb") as file:
        places = {key: _place(file, records.get(f"{folder}data/{key}"), storage) for key, storage in storages.items()}
    return content, places


def _place(file: BinaryIO, record: zipfile.ZipInfo | None, storage: Storage) -> Span:
    """Locate a storage's record in the archive."""
    record_size = record.file_size if record else 0
    if record is None or record_size * 8 < storage.bits:
        raise DamagedPickleError(
            f"its storage {quoted(storage.key)} has {record_size} bytes, and its pickle counts on more"
        )
    if record.compress_type != zipfile.ZIP_STORED:
        return Span(0, record=record.filename)
    file.seek(record.header_offset)
    start = file.read(_LOCAL_HEADER.size).ljust(_LOCAL_HEADER.size, b"\0")
    begin = record.header_offset + _LOCAL_HEADER.size + sum(_LOCAL_HEADER.unpack(start))
    if begin + record_size > os.fstat(file.fileno()).st_size:
        raise DamagedPickleError(f"its storage {quoted(storage.key)} reaches beyond its end")
    return Span(begin)


def _read_legacy(path: Path) -> tuple[object, dict[str, Span]]:
    """Return the content of the file's pickles, and the places of the storages after them."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        programs = BytesIO(file.read(_LONGEST_PICKLE))
    if unpickle(programs, {}) != _LEGACY_MAGIC:
        raise DamagedPickleError("it is a pickle of something else")
    for _ in ("protocol version", "system's number sizes"):
        unpickle(programs, {})
    storages: dict[str, Storage] = {}
    content = unpickle(programs, storages)
    order = unpickle(programs, {})
    if not isinstance(order, list) or set(map(str, order)) != storages.keys() or len(order) != len(storages):
        raise DamagedPickleError("its list of storages is not the one that its pickle refers to")
    places, end = {}, programs.tell()
    for key in order:
        places[key] = Span(end + _LEGACY_LENGTH_BYTES)
        end = places[key].begin + storages[key].bits // 8
    if size < end:
        raise DamagedPickleError(
            f"its weights take {end - programs.tell()} bytes, and it ends after {size - programs.tell()}"
        )
    return content, places


def _views(content: object) -> Iterator[tuple[str, View]]:
    """Yield the tensors by their keys; in nested dicts, by the keys joined with dots."""
    level = {"": _unwrapped(content)}
    seen = set()  # a pickle may nest a dict in itself
    for _ in range(_DEPTH):
        below: dict[str, object] = {}
        for name, value in level.items():
            if isinstance(value, View):
                yield name, value
            elif isinstance(value, dict) and id(value) not in seen:
                seen.add(id(value))
                below |= {f"{name}.{key}" if name else key: inner for key, inner in value.items()}
        level = below


def _unwrapped(content: object) -> object:
    for _ in range(_DEPTH):
        inner = next((content[key] for key in _WRAPPERS if key in content), None) if isinstance(content, dict) else None
        if not isinstance(inner, dict):
            break
        content = inner
    return content
