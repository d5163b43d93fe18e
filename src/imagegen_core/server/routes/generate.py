"""``POST /generate``: ask for a picture, wait for it, get it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from imagegen_core.server.results import GenerateBody, check_mode, make_result
from imagegen_core.server.studio import Caller, SharedStudio, Studio, drawn

router = APIRouter(tags=["pictures"])

PICTURES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {}, "image/jpeg": {}, "application/json": {}}, "description": "The picture"}
}


@router.post("/generate", response_class=Response, responses=PICTURES)
async def generate(body: GenerateBody, request: Request, studio: SharedStudio, caller: Caller) -> Response:
    """Draw a picture; with ``Accept: application/json`` it comes as base64."""
    ticket = studio.submit(prepared(studio, body), caller)
    picture = await drawn(request, ticket)
    result = await make_result(studio, picture, body)
    if wants_json(request):
        return JSONResponse(result.as_json(), headers=result.headers)
    return Response(result.data, media_type=result.media_type, headers=result.headers)


def prepared(studio: Studio, body: GenerateBody) -> GenerateBody:
    """The body with the server's defaults, checked as far as can be before it is drawn.

    Raises:
        InvalidRequestError: It asks for what cannot be drawn, or not here.
    """
    check_mode(body.mode)
    completed = studio.complete(body)
    assert isinstance(completed, GenerateBody)  # noqa: S101 - for the types
    if completed.superres:
        size = studio.size_of(completed)
        studio.upscalers.check(size.width, size.height, completed.superres_magnitude)
    return completed


def wants_json(request: Request) -> bool:
    """Whether the client says that it takes JSON, and not pictures."""
    accepted = request.headers.get("accept", "")
    return "application/json" in accepted and "image/" not in accepted
