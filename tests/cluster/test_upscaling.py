"""Upscaling on a replica after the ingress cancels it."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

import pytest

from imagegen_core.cluster.replica import _outcome


def test_cancelling_an_upscaling_stops_the_replicas_work() -> None:
    started, ended = threading.Event(), threading.Event()

    def enlarge(until: Future[Any]) -> None:
        started.set()
        until.add_done_callback(lambda _: ended.set())
        assert ended.wait(30)

    async def cancel_task() -> None:
        task = asyncio.ensure_future(_outcome(enlarge))
        assert await asyncio.to_thread(started.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel_task())
    assert ended.is_set()
