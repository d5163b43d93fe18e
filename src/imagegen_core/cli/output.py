"""Write pictures atomically."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from imagegen_core.cli.streams import cannot_write
from imagegen_core.errors import OutputError, WriteError
from imagegen_core.paths import expanded


@dataclass(frozen=True, slots=True)
class Output:
    """The target of ``-o``.

    Attributes:
        path: The file, or None for stdout.
        count: The number of pictures; several are numbered, ``out-1.png``.
    """

    path: Path | None
    count: int

    @classmethod
    def parse(cls, text: str, count: int) -> Output:
        """Check a target before anything is drawn for it.

        Raises:
            OutputError: Pictures could not be written there.
        """
        if text == "-":
            if count > 1:
                raise OutputError(f"-o - takes one picture, and --count asks for {count}: name a file instead")
            return cls(None, count)
        path = expanded(text)
        if path.suffix.lower() != ".png":
            raise OutputError(
                f"Cannot write {text}: pictures are PNG files, so name it {path.with_suffix('.png').name}"
            )
        if path.is_dir():
            raise OutputError(f"Cannot write {text}: it is a folder; name a file in it")
        if not path.parent.is_dir():
            raise OutputError(f"Cannot write {text}: the folder {path.parent} does not exist; make it first")
        if not os.access(path.parent, os.W_OK):
            raise OutputError(f"Cannot write {text}: the folder {path.parent} is not writable")
        return cls(path, count)

    @property
    def is_stdout(self) -> bool:
        """Whether the picture goes to stdout."""
        return self.path is None

    def write(self, png: bytes, number: int) -> Path | None:
        """Write picture `number`, counted from 0, completely or not at all.

        Returns:
            The file written, or None for stdout.

        Raises:
            WriteError: The disk is full, the folder is gone, or stdout's reader closed it.
        """
        if self.path is None:
            try:
                sys.stdout.buffer.write(png)
                sys.stdout.buffer.flush()
            except OSError as error:
                raise cannot_write(error) from error
            return None
        path = self.path if self.count == 1 else self.path.with_stem(f"{self.path.stem}-{number + 1}")
        try:
            _replace(path, png)
        except OSError as error:
            raise WriteError(f"Cannot write {path}: {error.strerror}") from error
        return path


def _replace(path: Path, content: bytes) -> None:
    """Write next to `path` and move into place, so that an interruption keeps the old file."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    """Return the process's umask; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
