"""A1111's ``txt2img`` and ``img2img``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from imagegen_core.engine import Ticket
from imagegen_core.request import GenerateRequest
from imagegen_core.server.a1111.answer import Drawn, answer_of
from imagegen_core.server.a1111.body import DrawingBody
from imagegen_core.server.a1111.hires import hires_of
from imagegen_core.server.a1111.img2img import Img2ImgBody
from imagegen_core.server.a1111.input_pictures import read_images, read_mask
from imagegen_core.server.a1111.requests import Target, common_fields, size_of
from imagegen_core.server.a1111.seeds import seeded
from imagegen_core.server.a1111.strength import strength_of
from imagegen_core.server.a1111.txt2img import Txt2ImgBody
from imagegen_core.server.context import Caller, ServerContext, SharedContext
from imagegen_core.server.errors import ConflictError
from imagegen_core.server.middleware.json_bodies import JsonRoute
from imagegen_core.server.waiting import drawn

router = APIRouter(route_class=JsonRoute)


@router.post("/txt2img", response_class=JSONResponse)
async def txt2img(body: Txt2ImgBody, request: Request, context: SharedContext, caller: Caller) -> Response:
    """Draw ``batch_size`` times ``n_iter`` pictures with consecutive seeds."""
    body.check(context.registry.parameters)
    target = Target.of(body, context, caller)
    is_sized = body.enable_hr or body.width is not None or body.height is not None
    asked = GenerateRequest.given(
        **common_fields(body, context, target),
        size=str(size_of(body, context, target)) if is_sized else None,
        hires=hires_of(body, context, target),
    )
    return await _answered(body, [asked], _Route("txt2img", request, context, caller), target)


@router.post("/img2img", response_class=JSONResponse)
async def img2img(body: Img2ImgBody, request: Request, context: SharedContext, caller: Caller) -> Response:
    """Draw pictures from an image, or from a batch of images; with a mask, a part of them."""
    body.check(context.registry.parameters)
    target = Target.of(body, context, caller)
    target.options.check_img2img(masked=bool(body.mask))
    size, steps, strength = size_of(body, context, target), *strength_of(body, context, target)
    images = await read_images(body, context, target.options.all_input_pictures["img2img_background_color"])
    if (mask := await read_mask(body, context)) is None:
        body = body.model_copy(update={"mask": ""})
    fields = common_fields(body, context, target) | {
        "size": str(size),
        "num_inference_steps": steps,
        "strength": strength,
        "resize": body.resize(masked=mask is not None),
        "mask": mask,
        "inpaint": None if mask is None else body.inpaint(),
        "image_guidance_scale": body.image_guidance_scale,
    }
    asked = [GenerateRequest.given(**fields, image=image) for image in images]
    return await _answered(body, asked, _Route("img2img", request, context, caller), target)


@dataclass(frozen=True, slots=True)
class _Route:
    """A client's call of a route."""

    name: str
    request: Request
    context: ServerContext
    caller: str


async def _answered(body: DrawingBody, asked: Sequence[GenerateRequest], route: _Route, target: Target) -> Response:
    """Draw the requests of a round, for each round, and answer with the pictures."""
    context = route.context
    parameters = body.declared(context.registry.parameters)
    completed = [context.complete(request.with_parameters(parameters), target.mode) for request in asked]
    requests = await context.final(seeded(body, completed), target.mode)
    tickets = context.submit_all(requests, route.caller, target.mode)
    with context.runs.running(route.caller, tickets, route.name):
        pictures = await _drawn_unless_skipped(route, tickets, requests)
    answer = await anyio.to_thread.run_sync(answer_of, body, pictures, target.card)
    return Response(answer, media_type="application/json")


async def _drawn_unless_skipped(
    route: _Route, tickets: Sequence[Ticket], requests: Sequence[GenerateRequest]
) -> list[Drawn]:
    """Wait for the pictures, without the skipped pictures; see `drawn`.

    Raises:
        ConflictError: All pictures were skipped, or the caller interrupted them.
    """
    pictures: list[Drawn] = []
    try:
        for ticket, asked in zip(tickets, requests, strict=True):
            try:
                pictures.append(Drawn(await drawn(route.request, ticket), asked))
            except ConflictError:
                if not route.context.runs.is_skipped(ticket) or (ticket is tickets[-1] and not pictures):
                    raise
    finally:
        for ticket in tickets:
            ticket.cancel()  # no effect on finished tickets
    return pictures
