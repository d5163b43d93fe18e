"""A1111's API for a client's pictures: enlarge a picture, and read its text."""

from __future__ import annotations

import base64
import math
from concurrent.futures import Future
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from imagegen_core.errors import InvalidRequestError
from imagegen_core.images.recipe import A1111_CHUNK
from imagegen_core.picture_files.decode import PictureFile, read_text
from imagegen_core.server.a1111.base64_pictures import decode_base64
from imagegen_core.server.context import Caller, SharedContext
from imagegen_core.server.middleware.json_bodies import JsonRoute

router = APIRouter(route_class=JsonRoute)

_NONE = "None"
_LARGEST_FACTOR = 8


class ExtraBody(BaseModel):
    """A1111's fields of "Extras"; only upscaling is supported."""

    model_config = ConfigDict(extra="allow")

    image: str
    resize_mode: int = Field(default=0, ge=0, le=1)
    upscaling_resize: float = Field(default=2, ge=1, le=_LARGEST_FACTOR)
    upscaling_resize_w: int = Field(default=512, ge=1, le=16384)
    upscaling_resize_h: int = Field(default=512, ge=1, le=16384)
    upscaling_crop: bool = True
    upscaler_1: str = _NONE
    gfpgan_visibility: float = 0
    codeformer_visibility: float = 0
    extras_upscaler_2_visibility: float = 0


class PngInfoBody(BaseModel):
    """A picture whose text is read."""

    image: str


@router.post("/extra-single-image", response_class=JSONResponse)
async def extra_single_image(body: ExtraBody, request: Request, context: SharedContext, caller: Caller) -> Response:
    """Enlarge a picture."""
    for field in ("gfpgan_visibility", "codeformer_visibility", "extras_upscaler_2_visibility"):
        if getattr(body, field):
            raise InvalidRequestError(
                f"{field}={getattr(body, field):g} is nothing this server does: leave it out", field
            )
    source = await decode_base64(body.image)

    def enlarge(until: Future[Any]) -> bytes:
        wanted = _wanted(PictureFile.read(source).size, body)
        crop = body.resize_mode == 1 and body.upscaling_crop
        enlarged = context.upscalers.enlarge_to(source, wanted, _upscaler(body), crop=crop, until=until)
        return b'{"html_info": "", "image": "%s"}' % base64.b64encode(enlarged)  # avoids `json.dumps` of a large text

    answer = await context.upscaled(request, caller, enlarge, weight=len(source) + len(body.image))
    return Response(answer, media_type="application/json")


@router.post("/png-info")
async def png_info(body: PngInfoBody) -> dict[str, Any]:
    """Return a picture's text."""
    source = await decode_base64(body.image)
    text = await anyio.to_thread.run_sync(read_text, source)
    return {"info": text.get(A1111_CHUNK, ""), "items": text, "parameters": {}}


def _wanted(size: tuple[int, int], body: ExtraBody) -> tuple[int, int]:
    """Return the target size, by the rules of A1111's "Scale by" and "Scale to"."""
    if body.resize_mode == 1:
        return body.upscaling_resize_w, body.upscaling_resize_h
    return math.floor(size[0] * body.upscaling_resize), math.floor(size[1] * body.upscaling_resize)


def _upscaler(body: ExtraBody) -> str:
    return "lanczos" if body.upscaler_1.lower() in ("none", "lanczos") else body.upscaler_1
