"""A1111's API, for clients of its web UI."""

from __future__ import annotations

from fastapi import APIRouter

from imagegen_core.server.a1111 import drawing, lists, models, option_routes, pictures
from imagegen_core.server.a1111.body import Txt2ImgBody as Txt2ImgBody

router = APIRouter(tags=["A1111"])
for _routes in (drawing, option_routes, models, lists, pictures):
    router.include_router(_routes.router, prefix="/sdapi/v1")
router.include_router(lists.gradio)
