"""``POST /generate``: ask for a picture, wait for it, get it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from imagegen_core.modes import Mode
from imagegen_core.server.json_bodies import JsonRoute
from imagegen_core.server.results import GenerateBody, Order, make_result
from imagegen_core.server.studio import Caller, SharedStudio, Studio, drawn

router = APIRouter(route_class=JsonRoute, tags=["pictures"])

PICTURES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {}, "image/jpeg": {}, "application/json": {}}, "description": "The picture"}
}


@router.post("/generate", response_class=Response, responses=PICTURES)
async def generate(body: GenerateBody, request: Request, studio: SharedStudio, caller: Caller) -> Response:
    """Draw a picture; with ``Accept: application/json`` it comes as base64."""
    body, mode = prepared(studio, body)
    ticket = studio.submit(body, caller, mode)
    picture = await drawn(request, ticket)
    result = await make_result(studio, picture, Order(body, mode.name, caller, ticket.since), request)
    if wants_json(request):
        return JSONResponse(result.as_json(), headers=result.headers)
    return Response(result.data, media_type=result.media_type, headers=result.headers)


def prepared(studio: Studio, body: GenerateBody) -> tuple[GenerateBody, Mode]:
    """The body with its defaults, checked as far as can be before it is drawn, and the mode that draws it.

    Raises:
        InvalidRequestError: It asks for what cannot be drawn, or not here.
        QueueFullError: It is to be enlarged, and too many pictures wait for that.
    """
    mode = studio.model.modes.find(body.mode)
    completed = studio.complete(body, mode)
    if completed.superres:
        size = studio.size_of(completed, mode)
        studio.upscalers.check(size.width, size.height, completed.superres_magnitude)
        studio.upscalings.check_room()
    return completed, mode


def wants_json(request: Request) -> bool:
    """Whether the client says that it takes JSON, and not pictures."""
    accepted = request.headers.get("accept", "")
    return "application/json" in accepted and "image/" not in accepted
