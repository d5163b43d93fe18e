"""The answers of OpenAI's routes: pictures in JSON, or a stream of events."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

import anyio.to_thread
from fastapi import Request
from fastapi.responses import JSONResponse
from sse_starlette import ServerSentEvent

from imagegen_core.engine import Ticket
from imagegen_core.errors import StorageError
from imagegen_core.images.converting import convert, enlarge_preview
from imagegen_core.job import StepDone
from imagegen_core.picture import Picture
from imagegen_core.server.context import ServerContext
from imagegen_core.server.errors import problem
from imagegen_core.server.links import url_to
from imagegen_core.server.openai.bodies import CommonBody

Kind = Literal["image_generation", "image_edit"]
"""The first part of the events' names: https://platform.openai.com/docs/api-reference/images-streaming."""


async def answer(
    pictures: Sequence[Picture], body: CommonBody, request: Request, context: ServerContext, caller: str
) -> JSONResponse:
    """Build the answer with finished pictures.

    Raises:
        StorageError: A picture is asked for as a URL, and cannot be stored.
    """
    created = int(time.time())
    data = [await _datum(picture, body, request, context, caller) for picture in pictures]
    return JSONResponse({"created": created, "data": data} | _described(pictures[0], body))


async def _datum(
    picture: Picture, body: CommonBody, request: Request, context: ServerContext, caller: str
) -> dict[str, Any]:
    data = await _encoded(picture, body)
    if body.response_format != "url":
        return {"b64_json": base64.b64encode(data).decode()}
    key = await context.keep(data, caller)
    if key is None:
        raise StorageError("The picture could not be stored: ask with response_format b64_json")
    return {"url": url_to(request, "fetch", key=key)}


async def stream(tickets: Sequence[Ticket], body: CommonBody, kind: Kind) -> AsyncIterator[ServerSentEvent]:
    """Yield partial and completed pictures. An error becomes an event, because the status is already sent."""
    try:
        for ticket in tickets:
            async for event in _events(ticket, body, kind):
                yield ServerSentEvent(json.dumps(event), event=event.get("type", "error"))
    except Exception as error:  # noqa: BLE001 - the error is already logged
        http_error = problem(error)
        said = {
            "error": {
                "message": http_error.message,
                "type": "server_error",
                "param": http_error.field,
                "code": http_error.kind,
            }
        }
        yield ServerSentEvent(json.dumps(said), event="error")
    finally:
        for ticket in tickets:
            ticket.cancel()


async def _events(ticket: Ticket, body: CommonBody, kind: Kind) -> AsyncIterator[dict[str, Any]]:
    number = 0
    async for event in ticket.events:
        if not isinstance(event, StepDone) or event.preview is None or event.step == event.steps:
            continue
        if not _is_shown(event, body.partial_images or 0):
            continue
        preview = await anyio.to_thread.run_sync(enlarge_preview, event.preview, body.output_format or "png")
        yield {
            "type": f"{kind}.partial_image",
            "partial_image_index": number,
            "b64_json": base64.b64encode(preview).decode(),
            "created_at": int(time.time()),
        } | _described(None, body)
        number += 1
    picture = await ticket
    data = await _encoded(picture, body)
    yield {
        "type": f"{kind}.completed",
        "b64_json": base64.b64encode(data).decode(),
        "created_at": int(time.time()),
        "usage": {
            "input_tokens": 0,
            "output_tokens": 0,
            "total_tokens": 0,
            "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
        },
    } | _described(picture, body)


def _is_shown(done: StepDone, wanted: int) -> bool:
    """Return True if this step is one of `wanted` steps, spread evenly over all but the last."""
    others = done.steps - 1
    shown = min(wanted, others)
    return shown > 0 and done.step * shown // others > (done.step - 1) * shown // others


def _described(picture: Picture | None, body: CommonBody) -> dict[str, Any]:
    size = body.size or "auto"
    if picture is not None:
        size = "{}x{}".format(*picture.size)
    return {
        "size": size,
        "quality": "auto",
        "background": "opaque",
        "output_format": body.output_format or "png",
    }


async def _encoded(picture: Picture, body: CommonBody) -> bytes:
    quality = 100 if body.output_compression is None else body.output_compression
    return await anyio.to_thread.run_sync(convert, picture.png, body.output_format or "png", quality)
