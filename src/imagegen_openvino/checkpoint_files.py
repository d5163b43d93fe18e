"""The weights files of a checkpoint's networks, and their hashes."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path

from imagegen_core import Settings

logger = logging.getLogger(__name__)

_WEIGHTS = (".safetensors", ".bin", ".ckpt", ".pt", ".gguf")


def unet_files(checkpoint: Path) -> list[Path]:
    """Return the files that hold the weights of a checkpoint's UNet, among others."""
    return _weights(checkpoint / "unet") if checkpoint.is_dir() else [checkpoint]


def vae_files(checkpoint: Path, settings: Settings) -> list[Path]:
    """Return the files that may hold the weights of a checkpoint's autoencoder, as the settings ask."""
    if (own := settings.vae_path) is not None:
        return _weights(own) if own.is_dir() else [own]
    if checkpoint.is_dir():
        return _weights(checkpoint / "vae")
    return [checkpoint, *(_weights(settings.base_model / "vae") if settings.base_model else ())]


def digest_of(files: Iterable[Path], folder: Path) -> str:
    """Return the SHA-256 of files, one after another.

    Args:
        files: The files.
        folder: Remembers the hash of each version of a file, so that it is read once.
    """
    joined = hashlib.sha256()
    for file in files:
        joined.update(bytes.fromhex(_digest(file, folder)))
    return joined.hexdigest()


def _weights(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix in _WEIGHTS)


def _digest(file: Path, folder: Path) -> str:
    status = file.stat()
    version = f"{file.resolve()} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
    known = folder / f"{hashlib.sha256(version.encode()).hexdigest()[:32]}.json"
    try:
        digest = str(json.loads(known.read_text(encoding="utf-8"))["sha256"])
        if len(bytes.fromhex(digest)) == hashlib.sha256().digest_size:
            return digest
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.debug("The hash in %s is unreadable (%s): hashing %s again", known, error, file)
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        known.write_text(json.dumps({"file": str(file), "sha256": digest}), encoding="utf-8")
    except OSError as error:
        logger.debug("Cannot keep the hash of %s in %s: %s", file, folder, error)
    return digest
