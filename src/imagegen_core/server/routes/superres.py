"""``POST /superres``: enlarge a picture that the client sends."""

from __future__ import annotations

from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Form, UploadFile
from fastapi.responses import Response

from imagegen_core.server.json_bodies import JsonRoute
from imagegen_core.server.routes.generate import PICTURES
from imagegen_core.server.studio import SharedStudio
from imagegen_core.server.upscaling import Format

router = APIRouter(route_class=JsonRoute, tags=["pictures"])


@router.post("/superres", response_class=Response, responses=PICTURES)
@router.post("/v1/superres", response_class=Response, responses=PICTURES)
async def superres(
    file: UploadFile,
    studio: SharedStudio,
    magnitude: Annotated[int, Form(ge=1, le=3, description="How many times to enlarge it.")] = 1,
    out_format: Annotated[Format, Form(description="What the answer is encoded as.")] = "png",
    quality: Annotated[int, Form(ge=1, le=100, description="JPEG's quality.")] = 92,
) -> Response:
    """Enlarge a PNG, JPEG, WebP, BMP or GIF; a recipe in it is kept."""
    source = await file.read()
    enlarged = await anyio.to_thread.run_sync(studio.upscalers.enlarge, source, magnitude, out_format, quality)
    headers = {"X-SuperRes": "1", "Cache-Control": "no-store"} | enlarged.headers
    return Response(enlarged.data, media_type=f"image/{enlarged.format}", headers=headers)
