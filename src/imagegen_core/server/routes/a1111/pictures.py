"""A1111's API for pictures that a client sends: upscaling, and the text in a picture."""

from __future__ import annotations

import base64
import binascii
import math
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from imagegen_core.errors import InvalidRequestError
from imagegen_core.images.reading import read_picture, text_of
from imagegen_core.images.recipe import A1111_CHUNK
from imagegen_core.server.studio import SharedStudio

if TYPE_CHECKING:
    from imagegen_core.server.studio import Studio

router = APIRouter()

_NONE = "None"
_LARGEST_FACTOR = 8


class ExtraBody(BaseModel):
    """A1111's fields of "Extras"; what asks for more than upscaling is refused."""

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
    """A picture whose text is wanted."""

    image: str


@router.post("/extra-single-image")
async def extra_single_image(body: ExtraBody, studio: SharedStudio) -> dict[str, Any]:
    """Enlarge a picture."""
    for field in ("gfpgan_visibility", "codeformer_visibility", "extras_upscaler_2_visibility"):
        if getattr(body, field):
            raise InvalidRequestError(
                f"{field}={getattr(body, field):g} is nothing this server does: leave it out", field
            )
    source = _decoded(body.image)
    enlarged = await anyio.to_thread.run_sync(_enlarged, source, body, studio)
    return {"html_info": "", "image": base64.b64encode(enlarged).decode()}


@router.post("/png-info")
async def png_info(body: PngInfoBody) -> dict[str, Any]:
    """The text that a picture carries."""
    source = _decoded(body.image)
    text = text_of(await anyio.to_thread.run_sync(read_picture, source))
    return {"info": text.get(A1111_CHUNK, ""), "items": text, "parameters": {}}


def _enlarged(source: bytes, body: ExtraBody, studio: Studio) -> bytes:
    image = read_picture(source)
    wanted = (math.floor(image.width * body.upscaling_resize), math.floor(image.height * body.upscaling_resize))
    if body.resize_mode == 1:
        wanted = (body.upscaling_resize_w, body.upscaling_resize_h)
    name = "lanczos" if body.upscaler_1.lower() in ("none", "lanczos") else body.upscaler_1
    return studio.upscalers.enlarge_to(source, wanted, name, crop=body.resize_mode == 1 and body.upscaling_crop)


def _decoded(text: str) -> bytes:
    """What base64 says, with or without the beginning of a data URL."""
    try:
        return base64.b64decode(text.partition("base64,")[2] or text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequestError(f"The image is no base64 ({error}): encode the file's bytes", "image") from error
