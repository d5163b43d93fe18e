"""``/storage``: the pictures that are kept."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import anyio.to_thread
from fastapi import APIRouter, Body, Depends, Request
from fastapi.responses import Response

from imagegen_core.errors import InvalidRequestError
from imagegen_core.server.errors import NotFoundError
from imagegen_core.server.json_bodies import JsonRoute
from imagegen_core.server.routes.generate import PICTURES
from imagegen_core.server.studio import SharedStudio
from imagegen_core.storage import ImageStore, check_key

router = APIRouter(route_class=JsonRoute, prefix="/storage", tags=["storage"])

_MAGIC = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


def _store(studio: SharedStudio) -> ImageStore:
    if studio.store is None:
        raise NotFoundError("Storage is disabled on this server: set STORAGE_PROVIDER")
    return studio.store


Store = Annotated[ImageStore, Depends(_store)]


@router.get("/health")
async def health(store: Store, studio: SharedStudio) -> dict[str, Any]:
    """Whether the store can be used."""
    await anyio.to_thread.run_sync(store.check)
    return {"status": "ok", "provider": studio.settings.storage_provider}


@router.get("/{key:uuid}", include_in_schema=False)
async def fetch_made(key: UUID, store: Store) -> Response:
    """A picture that the server stored."""
    return await fetch(str(key), store)


@router.get("/{key}", response_class=Response, responses=PICTURES)
async def fetch(key: str, store: Store) -> Response:
    """A picture that is kept."""
    data = await anyio.to_thread.run_sync(store.get, _plain(key))
    if data is None:
        raise NotFoundError(f"Nothing is kept under {key!r}, or no longer")
    return Response(data, media_type=_media_type(data), headers={"Cache-Control": "no-store"})


@router.put("/{key}", status_code=204, response_class=Response)
async def keep(
    key: str, request: Request, store: Store, _body: Annotated[bytes, Body(media_type="image/png")] = b""
) -> Response:
    """Keep a PNG or JPEG under a key, in place of what was there."""
    data = await request.body()
    if _media_type(data) == "application/octet-stream":
        raise InvalidRequestError("The body is no PNG and no JPEG: send one of them", "body")
    await anyio.to_thread.run_sync(store.put, _plain(key), data)
    return Response(status_code=204)


@router.delete("/{key}", status_code=204, response_class=Response)
async def remove(key: str, store: Store) -> Response:
    """Let go of a picture."""
    if not await anyio.to_thread.run_sync(store.delete, _plain(key)):
        raise NotFoundError(f"Nothing is kept under {key!r}, or no longer")
    return Response(status_code=204)


def _plain(key: str) -> str:
    """The key without the ending that an address may carry for those who read it."""
    return check_key(key).removesuffix(".png").removesuffix(".jpeg").removesuffix(".jpg")


def _media_type(data: bytes) -> str:
    return next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), "application/octet-stream")
