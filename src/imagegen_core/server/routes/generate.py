"""``POST /generate``: draw a picture and return it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from imagegen_core.modes import Mode
from imagegen_core.server.context import Caller, ServerContext, SharedContext
from imagegen_core.server.input_pictures import with_pictures
from imagegen_core.server.routes.forms import PictureRoute
from imagegen_core.server.schemas import GenerateBody, Order, make_result
from imagegen_core.server.waiting import drawn

router = APIRouter(route_class=PictureRoute, tags=["pictures"])

PICTURES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {}, "image/jpeg": {}, "application/json": {}}, "description": "The picture"}
}


@router.post("/generate", response_class=Response, responses=PICTURES)
async def generate(body: GenerateBody, request: Request, context: SharedContext, caller: Caller) -> Response:
    """Draw a picture. With ``Accept: application/json``, the response holds it as base64."""
    body, mode = await prepared(context, body, caller)
    ticket = context.submit(body, caller, mode)
    picture = await drawn(request, ticket)
    result = await make_result(context, picture, Order(body, mode.name, caller, ticket.since), request)
    if wants_json(request):
        return JSONResponse(result.as_json(), headers=result.headers)
    return Response(result.data, media_type=result.media_type, headers=result.headers)


async def prepared(context: ServerContext, body: GenerateBody, caller: str) -> tuple[GenerateBody, Mode]:
    """Read the pictures of a request's body, complete and check it, and find its mode.

    Raises:
        InvalidRequestError: The request is invalid, exceeds the server's limits, or a plugin refuses it.
        QueueFullError: The request asks for an enlargement, and too many pictures wait for one.
    """
    mode = context.mode_manager.modes.find(body.mode)
    body = await with_pictures(body, context, caller)
    declared = body.with_parameters(body.model_extra or {})
    (completed,) = await context.final([context.complete(declared, mode)], mode)
    if completed.superres:
        size = context.size_of(completed, mode)
        context.upscalers.check(size.width, size.height, completed.superres_magnitude)
        context.upscalings.check_room()
    return completed, mode


def wants_json(request: Request) -> bool:
    """Return True if the client accepts JSON, but no pictures."""
    accepted = request.headers.get("accept", "")
    return "application/json" in accepted and "image/" not in accepted
