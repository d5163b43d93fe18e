"""``/storage``: the stored pictures."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Request
from fastapi.responses import Response

from imagegen_core.errors import InvalidRequestError
from imagegen_core.server.context import Caller, SharedContext
from imagegen_core.server.errors import ConflictError, NotFoundError
from imagegen_core.server.middleware.json_bodies import JsonRoute
from imagegen_core.server.routes.generate import PICTURES
from imagegen_core.storage import ImageStore, is_owned, is_uuid, key_of, plain_key

router = APIRouter(route_class=JsonRoute, prefix="/storage", tags=["storage"])

_MAGIC = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


def _store(context: SharedContext) -> ImageStore:
    if context.store is None:
        raise NotFoundError("Storage is disabled on this server: set STORAGE_PROVIDER")
    return context.store


Store = Annotated[ImageStore, Depends(_store)]


@router.get("/health")
async def health(store: Store, context: SharedContext) -> dict[str, Any]:
    """Check the store."""
    await context.storing(store.check)
    return {"status": "ok", "provider": context.settings.storage_provider}


@router.get("/{key:uuid}", include_in_schema=False)
async def fetch_made(key: UUID, store: Store, context: SharedContext) -> Response:
    """Return a picture stored by the server itself."""
    return await _fetched(str(key), str(key), store, context)


@router.get("/{key}", response_class=Response, responses=PICTURES)
async def fetch(key: str, store: Store, context: SharedContext, caller: Caller) -> Response:
    """Return a stored picture; keys chosen by clients are private to each caller."""
    plain = plain_key(key)
    return await _fetched(key, plain if is_uuid(plain) else key_of(caller, plain), store, context)


@router.put("/{key}", status_code=204, response_class=Response)
async def keep(
    key: str,
    request: Request,
    store: Store,
    context: SharedContext,
    caller: Caller,
    _body: Annotated[bytes, Body(media_type="image/png")] = b"",
) -> Response:
    """Store a PNG or JPEG under a key, and replace the caller's old picture."""
    plain = plain_key(key)
    if is_uuid(plain) and not _may_change(plain, request, context, caller):
        raise ConflictError(f"The key {key!r} is a UUID, as the server's own keys are: choose one of another form")
    data = await request.body()
    if _media_type(data) == "application/octet-stream":
        raise InvalidRequestError("The body is neither a PNG nor a JPEG: send one of these", "body")
    await context.storing(store.put, plain if is_uuid(plain) else key_of(caller, plain), data)
    return Response(status_code=204)


@router.delete("/{key}", status_code=204, response_class=Response)
async def remove(key: str, request: Request, store: Store, context: SharedContext, caller: Caller) -> Response:
    """Delete one of the caller's pictures."""
    plain = plain_key(key)
    stored = plain if is_uuid(plain) else key_of(caller, plain)
    may = not is_uuid(plain) or _may_change(plain, request, context, caller)
    if not may or not await context.storing(store.delete, stored):
        raise _missing(key)
    return Response(status_code=204)


async def _fetched(key: str, stored: str, store: ImageStore, context: SharedContext) -> Response:
    data = await context.storing(store.get, stored)
    if not data:  # also an empty file after a crash
        raise _missing(key)
    return Response(data, media_type=_media_type(data), headers={"Cache-Control": "no-store"})


def _may_change(key: str, request: Request, context: SharedContext, caller: str) -> bool:
    """Return True if a caller may change a picture under a server-made key: its owner, an admin, or without keys."""
    is_admin = bool(context.settings.admin_keys) and request.state.is_admin
    return not caller or is_admin or is_owned(key, caller)


def _media_type(data: bytes) -> str:
    return next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), "application/octet-stream")


def _missing(key: str) -> NotFoundError:
    return NotFoundError(f"Nothing is kept under {key!r}, or no longer")
