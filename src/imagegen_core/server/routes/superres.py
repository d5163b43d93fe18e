"""``POST /superres``: enlarge a client's picture."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, UploadFile
from fastapi.responses import Response

from imagegen_core.hosting.upscaling import Enlarged, Format
from imagegen_core.server.context import Caller, SharedContext
from imagegen_core.server.headers import upscaling_headers
from imagegen_core.server.routes.forms import FormRoute
from imagegen_core.server.routes.generate import PICTURES

router = APIRouter(tags=["pictures"], route_class=FormRoute)


@router.post("/superres", response_class=Response, responses=PICTURES)
@router.post("/v1/superres", response_class=Response, responses=PICTURES)
async def superres(
    file: UploadFile,
    request: Request,
    context: SharedContext,
    caller: Caller,
    magnitude: Annotated[int, Form(ge=1, le=3, description="How many times to enlarge it.")] = 1,
    out_format: Annotated[Format, Form(description="What the answer is encoded as.")] = "png",
    quality: Annotated[int, Form(ge=1, le=100, description="JPEG's quality.")] = 92,
) -> Response:
    """Enlarge a PNG, JPEG, WebP, BMP or GIF; the picture's recipe is kept."""

    def enlarge(until: Future[Any]) -> Enlarged:
        source = file.file.read()  # read late: waiting files stay on disk instead of in memory
        return context.upscalers.enlarge(source, magnitude, out_format, quality, until=until)

    enlarged = await context.upscaled(request, caller, enlarge)
    headers = {"X-SuperRes": "1", "Cache-Control": "no-store"} | upscaling_headers(enlarged)
    return Response(enlarged.data, media_type=f"image/{enlarged.format}", headers=headers)
