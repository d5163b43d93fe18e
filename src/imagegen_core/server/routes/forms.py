"""Multipart forms with one file, with limits while the body is read."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from imagegen_core.errors import StorageError

_MAX_FIELDS = 16
_MAX_FIELD_BYTES = 1024


class _SmallForm(Request):
    """A request for a form with one file and a few short fields."""

    def form(self, **_: Any) -> Any:
        """Read the form; see `Request.form`."""
        return super().form(max_files=1, max_fields=_MAX_FIELDS, max_part_size=_MAX_FIELD_BYTES)


class FormRoute(APIRoute):
    """A route for a small form."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler with the limits."""
        handle = super().get_route_handler()

        async def handle_small(request: Request) -> Response:
            try:
                return await handle(_SmallForm(request.scope, request.receive))
            except HTTPException as error:
                if not isinstance(cause := error.__cause__, OSError):
                    raise
                raise StorageError(
                    f"The server cannot write the upload to its folder for temporary files ({cause.strerror}): make "
                    "room there, or set TMPDIR to a folder that can be written to"
                ) from error

        return handle_small
