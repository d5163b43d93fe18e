"""Upscaling on a replica whose front hangs up."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

import pytest

from imagegen_core.cluster.replica import _told


def test_a_front_that_hangs_up_stops_the_work_on_the_replica() -> None:
    begun, ended = threading.Event(), threading.Event()

    def enlarge(until: Future[Any]) -> None:
        begun.set()
        until.add_done_callback(lambda _: ended.set())
        assert ended.wait(30)

    async def hang_up() -> None:
        answer = asyncio.ensure_future(_told(enlarge))
        assert await asyncio.to_thread(begun.wait, 30)
        answer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answer

    asyncio.run(hang_up())
    assert ended.is_set()
