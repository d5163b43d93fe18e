"""Watches the files that the modes are configured in, and has them read again when they change."""

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

_PERIOD = 0.25  # seconds between two looks; a change counts once the second finds no other

_Signature = list[tuple[int, ...] | None]


@asynccontextmanager
async def watching(model: ModeManager) -> AsyncIterator[None]:
    """Watch inside, where there are files."""
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
    """Look at the files now and then, which also works on network and container mounts that tell of no changes."""
    seen = read
    while not ending.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ending.wait(), _PERIOD)
        before, seen = seen, await asyncio.to_thread(_signature, files)
        if seen == before and seen != read and not ending.is_set():
            read = seen
            await reload_modes(model)


async def reload_modes(model: ModeManager) -> None:
    """Read the modes again; where that fails, those before stay, and the log says why."""
    try:
        await asyncio.to_thread(model.reload)
    except ImagegenError:
        pass  # which is logged, and told by GET /api/modes
    except Exception:
        logger.exception("The modes stay as they were: reading them again failed")


def _signature(files: list[Path]) -> _Signature:
    """What tells a changed file from the one before: kind, identity, size, and times in nanoseconds."""
    return [_of(file) for file in files]


def _of(file: Path) -> tuple[int, ...] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mode, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
