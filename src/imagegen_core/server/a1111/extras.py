"""A1111's "Extras": enlarge a picture, or several."""

from __future__ import annotations

import base64
import io
import math
import time
from concurrent.futures import Future
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from PIL import Image
from pydantic import BaseModel, ConfigDict, FailFast, Field

from imagegen_core.errors import InvalidRequestError
from imagegen_core.images.png import encode_png
from imagegen_core.images.upscaler import LANCZOS
from imagegen_core.picture_files.decode import PictureFile
from imagegen_core.server.a1111.base64_pictures import decode_base64
from imagegen_core.server.a1111.body import MOST_PICTURES, Whole
from imagegen_core.server.body import Body
from imagegen_core.server.context import Caller, ServerContext, SharedContext
from imagegen_core.server.middleware.json_bodies import JsonRoute

router = APIRouter(route_class=JsonRoute)

_NONE = "None"
_LARGEST_FACTOR = 8


class ExtrasBody(Body):
    """A1111's fields of "Extras"; only enlarging is supported."""

    model_config = ConfigDict(extra="allow")

    resize_mode: Whole = Field(default=0, ge=0, le=1)
    upscaling_resize: float = Field(default=2, ge=1, le=_LARGEST_FACTOR)
    upscaling_resize_w: Whole = Field(default=512, ge=1, le=16384)
    upscaling_resize_h: Whole = Field(default=512, ge=1, le=16384)
    upscaling_crop: bool = True
    upscaler_1: str = _NONE
    upscaler_2: str = _NONE
    extras_upscaler_2_visibility: float = Field(default=0, ge=0, le=1)
    gfpgan_visibility: float = 0
    codeformer_visibility: float = 0

    def check(self) -> None:
        """Refuse the restoration of faces.

        Raises:
            InvalidRequestError: The request asks for it.
        """
        for field in ("gfpgan_visibility", "codeformer_visibility"):
            if getattr(self, field):
                raise InvalidRequestError(
                    f"{field}={getattr(self, field):g} is nothing this server does: leave it out", field
                )

    @property
    def upscalers(self) -> dict[str, float]:
        """The upscalers with their shares in the result; the second is drawn over the first."""
        first, second, share = *map(_plain, (self.upscaler_1, self.upscaler_2)), self.extras_upscaler_2_visibility
        return {first: 1.0, second: share} if self.upscaler_2 != _NONE and share and first != second else {first: 1.0}

    def wanted(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the target size of a picture, by the rules of A1111's "Scale by" and "Scale to"."""
        if self.resize_mode == 1:
            return self.upscaling_resize_w, self.upscaling_resize_h
        return math.floor(size[0] * self.upscaling_resize), math.floor(size[1] * self.upscaling_resize)


class ExtraBody(ExtrasBody):
    """The body for a single picture."""

    image: str


class FileData(BaseModel):
    """A picture of a batch."""

    data: str
    name: str = ""


class ExtraBatchBody(ExtrasBody):
    """The body for several pictures; A1111 spells ``imageList`` like this."""

    imageList: Annotated[list[FileData], FailFast(), Field(min_length=1, max_length=MOST_PICTURES)]  # noqa: N815


@router.post("/extra-single-image", response_class=JSONResponse)
async def extra_single_image(body: ExtraBody, request: Request, context: SharedContext, caller: Caller) -> Response:
    """Enlarge a picture."""
    (image,) = await _enlarged(body, [body.image], request, context, caller)
    return _json(b'{"html_info": "", "image": "%s"}' % image)


@router.post("/extra-batch-images", response_class=JSONResponse)
async def extra_batch_images(
    body: ExtraBatchBody, request: Request, context: SharedContext, caller: Caller
) -> Response:
    """Enlarge several pictures, one after the other."""
    images = await _enlarged(body, [picture.data for picture in body.imageList], request, context, caller)
    return _json(b'{"html_info": "", "images": [%s]}' % b", ".join(b'"%s"' % image for image in images))


async def _enlarged(
    body: ExtrasBody, texts: list[str], request: Request, context: ServerContext, caller: str
) -> list[bytes]:
    """Return the enlarged pictures in base64."""
    body.check()
    sources = [await decode_base64(text) for text in texts]
    held = sum(map(len, (*texts, *sources)))  # bytes, until the last picture is enlarged
    began, images = time.monotonic(), []
    for number, source in enumerate(sources):

        def enlarge(until: Future[Any], source: bytes = source) -> bytes:
            return base64.b64encode(_enlarge(body, source, context, until))

        since = began if number else None  # a full queue refuses the first picture alone
        images.append(await context.upscaled(request, caller, enlarge, since, weight=held))
    return images


def _enlarge(body: ExtrasBody, source: bytes, context: ServerContext, until: Future[Any]) -> bytes:
    wanted = body.wanted(PictureFile.read(source).size)
    crop = body.resize_mode == 1 and body.upscaling_crop
    first, *second = [
        (context.upscalers.enlarge_to(source, wanted, name, crop=crop, until=until), share)
        for name, share in body.upscalers.items()
    ]
    return _blended(first[0], *second[0]) if second else first[0]


def _blended(first: bytes, second: bytes, share: float) -> bytes:
    """Blend two pictures of the same size, as ``ScriptPostprocessingUpscale`` in A1111 does."""
    below, above = (Image.open(io.BytesIO(png)).convert("RGB") for png in (first, second))
    return encode_png(np.asarray(Image.blend(below, above, share)))


def _plain(name: str) -> str:
    return LANCZOS.name if name.lower() in ("none", LANCZOS.name) else name


def _json(body: bytes) -> Response:
    """Return a response; `json.dumps` of a large text would take long."""
    return Response(body, media_type="application/json")
