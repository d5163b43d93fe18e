"""``/v1/jobs``: post a request, follow its progress, and fetch the picture."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, Response
from sse_starlette import EventSourceResponse, ServerSentEvent

from imagegen_core.engine import Ticket
from imagegen_core.job import Cancelled, Done, Event, Failed, Queued, Started, StepDone
from imagegen_core.server.context import Caller, ServerContext, SharedContext
from imagegen_core.server.errors import ConflictError, problem
from imagegen_core.server.jobs import PostedJob, Promise
from imagegen_core.server.links import path_to
from imagegen_core.server.routes.forms import PictureRoute
from imagegen_core.server.routes.generate import PICTURES, prepared, wants_json
from imagegen_core.server.schemas import GenerateBody, Order, Result, make_result

router = APIRouter(route_class=PictureRoute, prefix="/v1/jobs", tags=["jobs"])


@router.post("", status_code=202)
async def post_job(
    body: GenerateBody,
    request: Request,
    context: SharedContext,
    caller: Caller,
    idempotency_key: Annotated[str | None, Header(max_length=256)] = None,
) -> JSONResponse:
    """Queue a picture. The same `Idempotency-Key` with the same body gives the same job, even after its end."""
    completed, mode = await prepared(context, body, caller)

    def make() -> PostedJob:
        ticket = context.submit(completed, caller, mode)
        order = Order(completed, mode.name, caller, ticket.since)
        return PostedJob(caller, ticket, asyncio.ensure_future(_result(context, ticket, order)), promise)

    promise = None
    if idempotency_key is not None:
        promise = await anyio.to_thread.run_sync(Promise.of, caller, idempotency_key, await request.body())
    job = context.jobs.post(make, promise)
    return JSONResponse(_status(request, job), 202, {"Location": _address(request, "get_job", job)})


@router.get("/{job_id}")
async def get_job(job_id: str, request: Request, context: SharedContext, caller: Caller) -> dict[str, Any]:
    """Return a job's status."""
    return _status(request, context.jobs.find(job_id, caller))


@router.delete("/{job_id}")
async def cancel_job(job_id: str, request: Request, context: SharedContext, caller: Caller) -> dict[str, Any]:
    """Cancel a job within one step; a finished job does not change."""
    job = context.jobs.find(job_id, caller)
    if not job.ticket.cancel():
        job.result.cancel()
    await asyncio.wait({job.result})
    return _status(request, job)


@router.get("/{job_id}/image", response_class=Response, responses=PICTURES)
async def get_image(job_id: str, request: Request, context: SharedContext, caller: Caller) -> Response:
    """Return a finished job's picture."""
    job = context.jobs.find(job_id, caller)
    if not job.result.done():
        raise ConflictError("The picture is not done yet: follow its events, or ask again")
    if job.result.cancelled():
        raise ConflictError("The job was cancelled: post it again")
    result = job.result.result()
    if wants_json(request):
        return JSONResponse(result.as_json(), headers=result.headers)
    return Response(result.data, media_type=result.media_type, headers=result.headers)


@router.get("/{job_id}/events", response_class=EventSourceResponse)
async def get_events(
    job_id: str,
    request: Request,
    context: SharedContext,
    caller: Caller,
    last_event_id: Annotated[str | None, Header(max_length=64)] = None,
) -> EventSourceResponse:
    """Stream a job's events as server-sent events, from its start or after `Last-Event-ID`."""
    job = context.jobs.find(job_id, caller)
    seen = int(last_event_id) if last_event_id and last_event_id.isdecimal() else 0
    return EventSourceResponse(_events(request, job, seen))


async def _events(request: Request, job: PostedJob, seen: int) -> AsyncIterator[ServerSentEvent]:
    number = 0
    async for event in job.ticket.events:
        number += 1
        if number <= seen:
            continue
        last = await _settled(job) if isinstance(event, Done) else None
        name, data = _said(last or event, _address(request, "get_image", job), job)
        yield ServerSentEvent(json.dumps(data), event=name, id=str(number))


async def _settled(job: PostedJob) -> Event | None:
    """Return the event that replaces `Done` if the enlargement failed or was cancelled."""
    await asyncio.wait({job.result})
    if job.result.cancelled():
        return Cancelled()
    error = job.result.exception()
    return Failed(error) if isinstance(error, Exception) else None


def _said(event: Event, image: str, job: PostedJob) -> tuple[str, dict[str, Any]]:
    """Return an event's name and data."""
    match event:
        case Queued(place):
            return "queued", {"place": place}
        case Started():
            return "started", {}
        case StepDone(step, steps, preview):
            shown = None if preview is None else base64.b64encode(preview).decode()
            return "step", {"step": step, "steps": steps, "preview": shown}
        case Failed(error):
            http_error = problem(error)
            return "failed", {"detail": http_error.message, "type": http_error.kind, "field": http_error.field}
        case Cancelled():
            return "cancelled", {}
        case Done():
            result = job.result.result()
            return "done", {"image": image, "seed": result.seed, "key": result.key}


async def _result(context: ServerContext, ticket: Ticket, order: Order) -> Result:
    return await make_result(context, await ticket, order)


def _status(request: Request, job: PostedJob) -> dict[str, Any]:
    """Describe a job for its routes."""
    status: dict[str, Any] = {
        "id": job.id,
        "status": "waiting",
        "events": _address(request, "get_events", job),
        "image": None,
        "seed": None,
        "error": None,
    }
    if not job.result.done():
        return status | {"status": "drawing" if job.ticket.events.when(Started) else "waiting"}
    if job.result.cancelled():
        return status | {"status": "cancelled"}
    if error := job.result.exception():
        assert isinstance(error, Exception)  # noqa: S101 - for the types
        http_error = problem(error)
        return status | {
            "status": "failed",
            "error": {"detail": http_error.message, "type": http_error.kind, "field": http_error.field},
        }
    return status | {"status": "done", "image": _address(request, "get_image", job), "seed": job.result.result().seed}


def _address(request: Request, route: str, job: PostedJob) -> str:
    return path_to(request, route, job_id=job.id)
