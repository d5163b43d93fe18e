"""A1111's ``png-info``: read a picture's text."""

from __future__ import annotations

from typing import Any

import anyio.to_thread
from fastapi import APIRouter
from pydantic import BaseModel

from imagegen_core.images.recipe import A1111_CHUNK
from imagegen_core.picture_files.decode import read_text
from imagegen_core.server.a1111.base64_pictures import decode_base64
from imagegen_core.server.middleware.json_bodies import JsonRoute

router = APIRouter(route_class=JsonRoute)


class PngInfoBody(BaseModel):
    """A picture whose text is read."""

    image: str


@router.post("/png-info")
async def png_info(body: PngInfoBody) -> dict[str, Any]:
    """Return a picture's text."""
    source = await decode_base64(body.image)
    text = await anyio.to_thread.run_sync(read_text, source)
    return {"info": text.get(A1111_CHUNK, ""), "items": text, "parameters": {}}
