"""OpenAI's routes that draw: generations, edits and variations."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sse_starlette import EventSourceResponse

from imagegen_core.engine import Ticket
from imagegen_core.errors import ImagegenError, InvalidRequestError
from imagegen_core.modes import Mode
from imagegen_core.picture_files.input_picture import InputPicture
from imagegen_core.request import GenerateRequest, Size, with_counted_seeds
from imagegen_core.server.context import Caller, ServerContext, SharedContext
from imagegen_core.server.input_pictures import read_pictures
from imagegen_core.server.middleware.json_bodies import JsonRoute
from imagegen_core.server.openai.answers import Kind, answer, stream
from imagegen_core.server.openai.bodies import CommonBody, EditBody, ImagesBody, VariationBody
from imagegen_core.server.openai.masks import with_mask
from imagegen_core.server.openai.models import mode_of
from imagegen_core.server.openai.sizes import fitting_size
from imagegen_core.server.routes.forms import PictureRoute
from imagegen_core.server.waiting import drawn_all

router = APIRouter(prefix="/images")
json_router, picture_router = APIRouter(route_class=JsonRoute), APIRouter(route_class=PictureRoute)


@json_router.post("/generations", response_model=None)
async def images(body: ImagesBody, request: Request, context: SharedContext, caller: Caller) -> Response:
    """Draw ``n`` pictures with consecutive seeds; ``stream`` sends previews, and each picture when it is ready."""
    mode = _checked(body, context)
    return await _drawn(body, body.request(), mode, request, context, caller, "image_generation")


@picture_router.post("/edits", response_model=None)
async def edits(body: EditBody, request: Request, context: SharedContext, caller: Caller) -> Response:
    """Draw from a picture, or the transparent parts of its mask again; other fields as in generations."""
    mode = _checked(body, context)
    read = await read_pictures({"image": body.image, "mask": body.mask}, context, caller)
    image, mask = await context.masking(with_mask, _image(read), read.get("mask"))
    size = body.wanted_size if body.outpaint else _size(body, image, context, mode)
    return await _drawn(
        body, body.request(image=image, mask=mask, size=size), mode, request, context, caller, "image_edit"
    )


@picture_router.post("/variations", response_model=None)
async def variations(body: VariationBody, request: Request, context: SharedContext, caller: Caller) -> Response:
    """Draw pictures that resemble a picture; without a prompt, the picture alone decides."""
    mode = _checked(body, context)
    image = _image(await read_pictures({"image": body.image}, context, caller))
    asked = body.request(image=image, size=_size(body, image, context, mode))
    return await _drawn(body, asked, mode, request, context, caller, "image_edit")


router.include_router(json_router)
router.include_router(picture_router)


async def _drawn(
    body: CommonBody,
    asked: GenerateRequest,
    mode: Mode,
    request: Request,
    context: ServerContext,
    caller: str,
    kind: Kind,
) -> Response:
    requests = await context.final(with_counted_seeds(context.complete(asked, mode), body.n), mode)
    tickets: Sequence[Ticket] = context.submit_all(requests, caller, mode)
    if body.stream:
        return EventSourceResponse(stream(tickets, body, kind))
    return await answer(await drawn_all(request, tickets), body, request, context, caller)


def _checked(body: CommonBody, context: ServerContext) -> Mode:
    """Check a body's fields beside those of the request, and find its mode."""
    mode = mode_of(body.model, context)
    body.check()
    if body.response_format == "url" and (context.store is None or not context.settings.storage_enable_http):
        raise InvalidRequestError(
            "No url can be given, as storage is off on this server: ask for b64_json", "response_format"
        )
    if body.response_format == "url" and body.stream:
        raise InvalidRequestError(
            "A stream holds the pictures themselves: leave response_format out", "response_format"
        )
    return mode


def _image(read: dict[str, InputPicture]) -> InputPicture:
    try:
        return read["image"]
    except KeyError:
        raise InvalidRequestError("Missing image: give it", "image") from None


def _size(body: CommonBody, image: InputPicture, context: ServerContext, mode: Mode) -> str | None:
    """Return the size to draw; ``auto`` or none is the image's own, or about the model's for a larger image."""
    if body.wanted_size is not None:
        return body.wanted_size
    try:
        native = context.card(mode).size
    except ImagegenError:
        return None  # `submit` answers the request with the reason
    return None if native is None else fitting_size(image.size, Size.parse(native))
