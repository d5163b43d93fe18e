"""The tensor table of a torch file (``.ckpt``, ``.pt``, ``.pth``, ``.bin``), read without running its pickle.

Two formats, both described by ``torch/serialization.py``: a zip archive with a pickle in ``data.pkl`` and a
record for each storage, and before torch 1.6 five pickles followed by the storages.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from imagegen_core.errors import ModelLoadError
from imagegen_core.models.pickled import DamagedPickleError, RefusedPickleError, Storage
from imagegen_core.models.tensors import Header, Tensor, quoted
from imagegen_core.models.unpickling import unpickle

_LONGEST_PICKLE = 16 * 2**20  # in bytes; a checkpoint's takes half a megabyte
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_LENGTH_BYTES = 8  # before each storage's elements
# What a training run or an upscaler's author wraps the weights in.
_WRAPPERS = ("state_dict", "params_ema", "params")
_DEPTH = 3


def read_torch(path: Path) -> Header:
    """Read the tensor table; of a Lightning checkpoint, what lies below ``state_dict``.

    Raises:
        ModelLoadError: The file is cut short, damaged, or its pickle asks for more than weights need.
        OSError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"
        content = _read_zip(path) if is_zip else _read_legacy(path)
    except RefusedPickleError as error:
        raise ModelLoadError(
            f"{path} is refused: its pickle asks for {error}, which weights do not need and which could run code; "
            "take the .safetensors version of it, or one saved as a plain state dict"
        ) from error
    except DamagedPickleError as error:
        raise ModelLoadError(f"{path} is no whole torch file: {error}; copy or download it anew") from error
    return Header(path, "torch" if is_zip else "torch-legacy", dict(_tensors(content)))


def _read_zip(path: Path) -> object:
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
    for key, storage in storages.items():
        record_size = records[f"{folder}data/{key}"].file_size if f"{folder}data/{key}" in records else 0
        if record_size * 8 < storage.bits:
            raise DamagedPickleError(
                f"its storage {quoted(key)} has {record_size} bytes, and its pickle counts on more"
            )
    return content


def _read_legacy(path: Path) -> object:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        programs = BytesIO(file.read(_LONGEST_PICKLE))
    if unpickle(programs, {}) != _LEGACY_MAGIC:
        raise DamagedPickleError("it is a pickle of something else")
    for _ in ("protocol version", "system's number sizes"):
        unpickle(programs, {})
    storages: dict[str, Storage] = {}
    content = unpickle(programs, storages)
    unpickle(programs, {})  # the storages' order
    wanted = sum(_LEGACY_LENGTH_BYTES + storage.bits // 8 for storage in storages.values())
    if size - programs.tell() < wanted:
        raise DamagedPickleError(f"its weights take {wanted} bytes, and it ends after {size - programs.tell()}")
    return content


def _tensors(content: object) -> Iterator[tuple[str, Tensor]]:
    """The tensors by their keys, those of nested dicts by the keys joined with dots."""
    level = {"": _unwrapped(content)}
    seen = set()  # a pickle may nest a dict in itself
    for _ in range(_DEPTH):
        below: dict[str, object] = {}
        for name, value in level.items():
            if isinstance(value, Tensor):
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
