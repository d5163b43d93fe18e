"""Watches the files that the modes are configured in, and has them read again when they change."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread
from watchfiles import awatch

from imagegen_core.errors import ImagegenError

if TYPE_CHECKING:
    from imagegen_core.server.model import Model

logger = logging.getLogger(__name__)


@asynccontextmanager
async def watching(model: Model) -> AsyncIterator[None]:
    """Watch inside, where there are files."""
    files = model.files()
    if not files:
        yield
        return
    ending = asyncio.Event()
    task = asyncio.create_task(_watch(model, files, ending))
    try:
        yield
    finally:
        ending.set()
        await task


async def _watch(model: Model, files: list[Path], ending: asyncio.Event) -> None:
    """Watch the files' folders, as editors put a new file in an old one's place."""
    before = _contents(files)
    folders = {file.absolute().parent for file in files}
    async for _ in awatch(*folders, stop_event=ending, recursive=False):
        now = _contents(files)
        if now == before:
            continue
        before = now
        with contextlib.suppress(ImagegenError):  # which is logged, and told by GET /api/modes
            await anyio.to_thread.run_sync(model.reload)


def _contents(files: list[Path]) -> list[bytes | None]:
    return [file.read_bytes() if file.is_file() else None for file in files]
