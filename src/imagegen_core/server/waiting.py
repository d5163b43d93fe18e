"""Wait for work while the client waits for its response."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from fastapi import Request

from imagegen_core.engine import Ticket
from imagegen_core.picture import Picture
from imagegen_core.server.errors import ConflictError

Result = TypeVar("Result")


class ClientGoneError(Exception):
    """The client hung up, so the response has no reader."""


async def drawn(request: Request, ticket: Ticket) -> Picture:
    """Wait for a picture, and cancel it if the client hangs up; see `drawn_all`."""
    return (await drawn_all(request, [ticket]))[0]


async def drawn_all(request: Request, tickets: Sequence[Ticket]) -> list[Picture]:
    """Wait for pictures, and cancel all if one fails or the client hangs up.

    Raises:
        ClientGoneError: The client hung up.
        ImagegenError: A picture failed.
    """
    try:
        return await unless_gone(request, _results(tickets))
    except asyncio.CancelledError as error:
        if any(ticket.job.fut.cancelled() for ticket in tickets):
            raise ConflictError("The picture was cancelled before it was done: ask again") from error
        raise
    finally:
        for ticket in tickets:
            ticket.cancel()  # no effect on finished tickets


async def unless_gone(request: Request, running: Coroutine[Any, Any, Result]) -> Result:
    """Wait for a coroutine, and cancel it if the client hangs up.

    Raises:
        ClientGoneError: The client hung up.
    """
    work, gone = asyncio.ensure_future(running), asyncio.ensure_future(_gone(request))
    for task in (work, gone):
        task.add_done_callback(retrieve)  # also for errors after the return
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientGoneError("The client hung up")
        return work.result()
    finally:
        work.cancel()
        gone.cancel()


async def _results(tickets: Sequence[Ticket]) -> list[Picture]:
    return await asyncio.gather(*(_result(ticket) for ticket in tickets))


async def _result(ticket: Ticket) -> Picture:
    return await ticket


def retrieve(future: asyncio.Future[Any]) -> None:
    """Retrieve a future's error, to keep asyncio from logging it as never retrieved."""
    if not future.cancelled():
        future.exception()


async def _gone(request: Request) -> None:
    """Return when the client has hung up. The body must have been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
