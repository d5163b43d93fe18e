"""Converted networks in the user's cache folder, one folder each."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import logging
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import openvino
from platformdirs import user_cache_path

from imagegen_core import ModelLoadError
from imagegen_openvino.group_norms import keep_float32
from imagegen_openvino.input_ranges import Limits

logger = logging.getLogger(__name__)

_NETWORK, _WEIGHTS, _ENTRY, _RANGES = "network.xml", "network.bin", "entry.json", "ranges.json"
_UNUSED_SECONDS = 30 * 24 * 3600
_MARGIN_BYTES = 64 * 2**20

Convert = Callable[[], AbstractContextManager[Any]]
"""Converts a network, which is of use within the context."""


class NetworkCache:
    """The converted networks by their origin. Entries that nobody used for 30 days leave when another is written.

    Attributes:
        hashes: A folder for the hashes of weights files.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Take a folder; None is ``imagegen/openvino`` in the user's cache folder.

        Raises:
            ModelLoadError: The user has no cache folder.
        """
        self._folder = folder or user_cache_path("imagegen") / "openvino"
        if not self._folder.is_absolute():  # without a home folder, the path would begin with ~
            raise ModelLoadError("The converted networks need a cache folder: set HOME, or XDG_CACHE_HOME to a folder")
        self.hashes = self._folder / "hashes"

    def network(self, core: Any, origin: Mapping[str, Any], convert: Convert) -> Any:
        """Return the network of an origin, with its weights mapped into memory; convert it if it is missing or damaged.

        Args:
            core: OpenVINO's entry point.
            origin: All that decides the network, as JSON.
            convert: Converts the network.

        Raises:
            ModelLoadError: The folder cannot be written, or the disk is too small.
        """
        network = self._read(core, origin)
        if network is None:
            self._write(origin, convert)
            _return_memory()
            network = self._read(core, origin)
        if network is None:
            raise ModelLoadError(
                f"A converted network in {self._folder} was removed or damaged at once: leave the folder alone, or set "
                "XDG_CACHE_HOME to another"
            )
        return network

    def ranges(self, origin: Mapping[str, Any]) -> Limits | None:
        """Return the ranges of a network's inputs; None if they are missing or damaged."""
        file = self._place(origin) / _RANGES
        try:
            read = json.loads(file.read_text(encoding="utf-8"))
            return {name: (float(low), float(high)) for name, (low, high) in read.items()}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, AttributeError) as error:
            logger.warning("The ranges in %s are damaged (%s): drawing trial pictures again", file, error)
            return None

    def keep_ranges(self, origin: Mapping[str, Any], ranges: Limits) -> None:
        """Keep the ranges of a network's inputs; if that fails, the next start draws the trial pictures again."""
        file = self._place(origin) / _RANGES
        try:
            with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as part:
                json.dump(ranges, part)
            Path(part.name).replace(file)
        except OSError as error:
            logger.warning("Cannot keep the ranges for int8 in %s: %s", file, error)

    def _read(self, core: Any, origin: Mapping[str, Any]) -> Any | None:
        """Return the network of an origin; None if it is missing or damaged."""
        folder = self._place(origin)
        try:
            _check(folder, origin)
            network = core.read_model(folder / _NETWORK)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RuntimeError) as error:
            logger.warning("The converted network in %s is damaged (%s): converting again", folder, error)
            shutil.rmtree(folder, ignore_errors=True)
            return None
        try:
            os.utime(folder / _ENTRY)  # it is in use
        except OSError as error:
            logger.debug("Cannot mark %s as used: %s", folder, error)
        return network

    def _write(self, origin: Mapping[str, Any], convert: Convert) -> None:
        """Convert a network, and write it at once; another process may do the same."""
        place = self._place(origin)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._forget_unused()
            with tempfile.TemporaryDirectory(prefix=".partial-", dir=self._folder, ignore_cleanup_errors=True) as part:
                folder = Path(part) / "network"
                folder.mkdir()
                with convert() as network:
                    _save(network, folder)
                (folder / _ENTRY).write_text(json.dumps(_described(folder, origin)), encoding="utf-8")
                _move(folder, place)
        except OSError as error:
            raise ModelLoadError(
                f"Cannot keep a converted network in {self._folder} ({error.strerror or error}): correct the folder, "
                "or set XDG_CACHE_HOME to another"
            ) from error

    def _place(self, origin: Mapping[str, Any]) -> Path:
        text = json.dumps(origin, sort_keys=True)
        return self._folder / hashlib.sha256(text.encode()).hexdigest()[:32]

    def _forget_unused(self) -> None:
        oldest = time.time() - _UNUSED_SECONDS
        for folder in [path for path in self._folder.iterdir() if path.is_dir() and path != self.hashes]:
            entry = folder / _ENTRY
            if (entry if entry.exists() else folder).stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)


def _return_memory() -> None:
    """Return freed memory to the kernel: glibc would keep the memory of a whole network in torch."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _check(folder: Path, origin: Mapping[str, Any]) -> None:
    """Raise an error if a folder is missing, incomplete or of another origin."""
    if json.loads((folder / _ENTRY).read_text(encoding="utf-8")) != _described(folder, origin):
        raise ValueError("its files have other sizes")


def _described(folder: Path, origin: Mapping[str, Any]) -> dict[str, Any]:
    sizes = {name: (folder / name).stat().st_size for name in (_NETWORK, _WEIGHTS)}
    return {"origin": json.loads(json.dumps(origin)), "sizes": sizes}


def _save(network: Any, folder: Path) -> None:
    constants = (node for node in network.get_ops() if node.get_type_name() == "Constant")
    needed, free = sum(node.get_byte_size() for node in constants), shutil.disk_usage(folder).free
    if needed + _MARGIN_BYTES > free:
        raise ModelLoadError(
            f"A converted network takes {needed / 1e9:.1f} GB, and the disk of {folder.parent.parent} has "
            f"{free / 1e9:.1f} GB free: make room, or set XDG_CACHE_HOME to a folder on another disk"
        )
    openvino.save_model(network, folder / _NETWORK, compress_to_fp16=False)
    keep_float32(folder / _NETWORK)


def _move(folder: Path, place: Path) -> None:
    """Move a finished folder to its place; a finished folder of another process may be there already."""
    if place.exists() and not (place / _ENTRY).exists():  # somebody deleted a part of it
        shutil.rmtree(place)
    try:
        folder.rename(place)
    except OSError:
        if not (place / _ENTRY).exists():
            raise
