"""Multipart forms: one file with short fields, or a request's fields with its pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import anyio.to_thread
from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.datastructures import MutableHeaders, UploadFile
from starlette.exceptions import HTTPException
from starlette.types import Message

from imagegen_core.errors import StorageError
from imagegen_core.request import GenerateRequest
from imagegen_core.server.form_fields import values_of
from imagegen_core.server.middleware.json_bodies import JsonRoute, is_json
from imagegen_core.server.middleware.refusal import has_body

_MAX_FIELDS = 16
_MAX_FIELD_BYTES = 1024
_MAX_PICTURES = 20  # OpenAI's API takes 16 pictures and a mask; more than one picture gets a sentence
_MAX_PARTS = 256
_MAX_TEXT_BYTES = 2**20
_OBJECTS = {
    name
    for name, field in GenerateRequest.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
} | {"image", "mask"}
FORM = "multipart/form-data"
"""The content type of forms."""

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class _SmallForm(Request):
    """A request for a form with one file and a few short fields."""

    def form(self, **_: Any) -> Any:
        """Read the form; see `Request.form`."""
        return super().form(max_files=1, max_fields=_MAX_FIELDS, max_part_size=_MAX_FIELD_BYTES)


class FormRoute(APIRoute):
    """A route for a small form."""

    def get_route_handler(self) -> Handler:
        """Return the handler with the limits."""
        handle = super().get_route_handler()

        async def handle_small(request: Request) -> Response:
            try:
                return await handle(_SmallForm(request.scope, request.receive))
            except HTTPException as error:
                if (explained := _explained(error)) is error:
                    raise
                raise explained from error

        return handle_small


class PictureRoute(JsonRoute):
    """A route for JSON, or for a multipart form with the same fields and with pictures as files.

    The route's function gets the same body from both.
    """

    def get_route_handler(self) -> Handler:
        """Return the handler that also reads forms."""
        handle = super().get_route_handler()

        async def handle_both(request: Request) -> Response:
            if self.body_field is None or not has_body(request.scope) or is_json(request.scope):
                return await handle(request)
            if not request.headers.get("content-type", "").lower().startswith(FORM):
                raise HTTPException(
                    415, f"This route takes JSON or a form: send the body as application/json or {FORM}"
                )
            return await handle(await _as_json(request))

        return handle_both


async def _as_json(request: Request) -> Request:
    """Read a form, and return a request with its values in place of JSON."""
    try:
        async with request.form(max_files=_MAX_PICTURES, max_fields=_MAX_PARTS, max_part_size=_MAX_TEXT_BYTES) as form:
            parts = [
                (name, await value.read() if isinstance(value, UploadFile) else value)
                for name, value in form.multi_items()
            ]
    except HTTPException as error:
        if (explained := _explained(error)) is error:
            raise
        raise explained from error
    values = values_of(parts, _OBJECTS, request.app.state.context.registry.parameters)
    headers = MutableHeaders(raw=[*request.scope["headers"]])
    headers["content-type"] = "application/json"
    state = request.scope.get("state", {}) | {"json": values}
    body = await anyio.to_thread.run_sync(_digest, parts)
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else await request.receive()

    return Request({**request.scope, "headers": headers.raw, "state": state}, receive)


def _digest(parts: Sequence[tuple[str, str | bytes]]) -> bytes:
    """Return a digest of names and values, because the boundaries of a repeated form differ."""
    digest = hashlib.sha256()
    for name, value in parts:
        data = value if isinstance(value, bytes) else value.encode()
        digest.update(f"{len(name)} {len(data)} {name}".encode())
        digest.update(data)
    return digest.hexdigest().encode()


def _explained(error: HTTPException) -> Exception:
    """Return the error of a form; a full disk is a fault of the server."""
    if not isinstance(cause := error.__cause__, OSError):
        return error
    return StorageError(
        f"The server cannot write the upload to its folder for temporary files ({cause.strerror}): make room there, or "
        "set TMPDIR to a folder that can be written to"
    )
