"""A1111's API, for clients of its web UI."""

from __future__ import annotations

from fastapi import APIRouter

from imagegen_core.server.a1111 import drawing, extras, lists, models, option_routes, png_info, progress_routes
from imagegen_core.server.a1111.img2img import Img2ImgBody as Img2ImgBody
from imagegen_core.server.a1111.txt2img import Txt2ImgBody as Txt2ImgBody

router = APIRouter(tags=["A1111"])
for _routes in (drawing, progress_routes, option_routes, models, lists, extras, png_info):
    router.include_router(_routes.router, prefix="/sdapi/v1")
router.include_router(lists.gradio)
