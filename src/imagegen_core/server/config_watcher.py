"""Watch the configuration files of the modes, and reload the modes after a change."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from imagegen_core.errors import ImagegenError

if TYPE_CHECKING:
    from imagegen_core.hosting.mode_manager import ModeManager

logger = logging.getLogger(__name__)

_PERIOD = 0.25  # seconds between two checks; a change counts once two checks in a row see the same state

_Signature = list[tuple[int, ...] | None]


@asynccontextmanager
async def watching(model: ModeManager) -> AsyncIterator[None]:
    """Watch the configuration files, if there are any, until the context ends."""
    files = model.files()
    if not files:
        yield
        return
    ending, read = asyncio.Event(), await asyncio.to_thread(_signature, files)
    task = asyncio.create_task(_watch(model, files, read, ending))
    try:
        yield
    finally:
        ending.set()
        await task


async def _watch(model: ModeManager, files: list[Path], read: _Signature, ending: asyncio.Event) -> None:
    """Poll the files, because network and container mounts send no change notifications."""
    seen = read
    while not ending.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ending.wait(), _PERIOD)
        before, seen = seen, await asyncio.to_thread(_signature, files)
        if seen == before and seen != read and not ending.is_set():
            read = seen
            await reload_modes(model)


async def reload_modes(model: ModeManager) -> None:
    """Reload the modes; after an error, keep the old modes and log the cause."""
    try:
        await asyncio.to_thread(model.reload)
    except ImagegenError:
        pass  # the mode manager logs it, and GET /api/modes shows it
    except Exception:
        logger.exception("The modes stay as they were: reading them again failed")


def _signature(files: list[Path]) -> _Signature:
    """Return the files' type, identity, size and times (nanoseconds), to detect a change."""
    return [_of(file) for file in files]


def _of(file: Path) -> tuple[int, ...] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mode, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
