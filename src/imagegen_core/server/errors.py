"""Conversion of errors to HTTP responses, in the format of the requested API."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from imagegen_core import errors
from imagegen_core.redaction import redact
from imagegen_core.request import shown
from imagegen_core.server.paths import route_path

_NOT_READY_YET = 5  # seconds before the client's next try
_LONGEST_FIELD = 64
_UNTOLD = "The server cannot do this at the moment: ask with an API key for the cause"
_KINDS = {401: "unauthorized", 403: "forbidden", 404: "not_found", 413: "too_large", 415: "unsupported_media_type"}
_SENTENCES = {404: "There is no such route: see /docs", 405: "This route does not take that method: see /docs"}


class Problem(NamedTuple):
    """An error as an HTTP response.

    Attributes:
        status: The HTTP status.
        kind: A word for programs, such as ``queue_full``.
        message: A sentence for people.
        field: The wrong field of the request; None if no field is wrong.
        headers: Extra headers, such as ``Retry-After``.
    """

    status: int
    kind: str
    message: str
    field: str | None = None
    headers: Mapping[str, str] = {}


class NotFoundError(errors.ImagegenError):
    """The name is unknown, or its object is gone."""


class ConflictError(errors.ImagegenError):
    """The current state does not allow the operation."""


class UnauthorizedError(errors.ImagegenError):
    """The caller sent no API key, or an unknown key."""


class ForbiddenError(errors.ImagegenError):
    """The caller has no permission for this."""


class MaskFormatError(errors.InvalidRequestError):
    """The mask has no alpha channel, and OpenAI's API takes transparent parts."""


# The first matching entry counts, so subclasses come before their base classes.
TABLE: tuple[tuple[type[Exception], int, str], ...] = (
    (MaskFormatError, 422, "invalid_mask_image_format"),
    (errors.InvalidRequestError, 422, "invalid_request"),
    (errors.PictureError, 422, "invalid_picture"),
    (errors.QueueFullError, 429, "queue_full"),
    (errors.DeadlineError, 504, "deadline"),
    (errors.OutOfMemoryError, 507, "out_of_memory"),
    (errors.StorageError, 503, "storage"),
    (errors.NotReadyError, 503, "not_ready"),
    (errors.EngineClosedError, 503, "stopping"),
    (UnauthorizedError, 401, "unauthorized"),
    (ForbiddenError, 403, "forbidden"),
    (NotFoundError, 404, "not_found"),
    (ConflictError, 409, "conflict"),
    (errors.ImagegenError, 500, "failed"),
)


def problem(error: Exception) -> Problem:
    """Convert an error to its HTTP form without secrets; the message of an unexpected exception stays hidden."""
    http_error = _problem(error)
    return http_error._replace(message=redact(http_error.message))


def _problem(error: Exception) -> Problem:
    if isinstance(error, RequestValidationError):
        return _validation(error)
    if isinstance(error, HTTPException):
        kind = _KINDS.get(error.status_code, "invalid_request")
        said = _SENTENCES.get(error.status_code, str(error.detail))
        return Problem(error.status_code, kind, said, getattr(error, "field", None), error.headers or {})
    for kind_of, status, name in TABLE:
        if isinstance(error, kind_of):
            return Problem(status, name, str(error), getattr(error, "field", None), _headers(error))
    return Problem(500, "failed", "Something went wrong that should not have: the server's log tells more")


def answer(request: Request, error: Exception) -> JSONResponse:
    """Build the response for an error, in the format of the requested API.

    If the server has keys, a caller without a key does not see the cause of a server error.
    """
    http_error = problem(error)
    if http_error.status >= 500 and not getattr(request.state, "is_trusted", True):  # noqa: PLR2004
        http_error = http_error._replace(message=_UNTOLD)
    path = route_path(request.scope)
    if path.startswith(("/v1/images", "/v1/models")):
        http_error = _as_openai(http_error)
        body: dict[str, Any] = {
            "error": {
                "message": http_error.message,
                "type": _openai_type(http_error),
                "param": http_error.field,
                "code": http_error.kind,
            }
        }
    elif path.startswith("/sdapi"):
        body = {"error": http_error.kind, "detail": http_error.message, "body": "", "errors": http_error.message}
    else:
        body = {"detail": http_error.message, "type": http_error.kind, "field": http_error.field}
    return JSONResponse(body, http_error.status, dict(http_error.headers))


def _headers(error: Exception) -> dict[str, str]:
    if isinstance(error, errors.QueueFullError):
        return {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    if isinstance(error, errors.NotReadyError | errors.EngineClosedError):
        return {"Retry-After": str(_NOT_READY_YET)}
    if isinstance(error, UnauthorizedError):
        return {"WWW-Authenticate": "Bearer"}
    return {}


def _validation(error: RequestValidationError) -> Problem:
    """Describe the first validation error in one sentence."""
    first = error.errors()[0]
    if isinstance(cause := first.get("ctx", {}).get("error"), errors.InvalidRequestError):
        return Problem(422, "invalid_request", str(cause), cause.field)
    where = [str(part) for part in first["loc"] if part not in ("body", "query", "path", "header")]
    said = f"{first['msg'][0].lower()}{first['msg'][1:]}"
    if first["type"] == "json_invalid":
        return Problem(422, "invalid_request", f"The body is not JSON: {first.get('ctx', {}).get('error', said)}")
    if first["loc"] == ("body",) and isinstance(first["input"], bytes | str):
        return Problem(
            422, "invalid_request", "The body is not a JSON object: send one as Content-Type application/json"
        )
    field = ".".join(where)[:_LONGEST_FIELD] or None
    if first["type"] == "missing":
        return Problem(422, "invalid_request", f"Missing {field or 'the body'}: give it", field)
    if first["type"] == "extra_forbidden":
        return Problem(
            422, "invalid_request", f"Unknown field {field!r}: leave it out; see /docs for the fields", field
        )
    return Problem(422, "invalid_request", f"Invalid {field or 'body'} {shown(first['input'])}: {said}", field)


def _as_openai(error: Problem) -> Problem:
    """Change status 422 to 400, as in OpenAI's API."""
    return error._replace(status=400) if error.status == 422 else error  # noqa: PLR2004


def _openai_type(error: Problem) -> str:
    names = {401: "authentication_error", 429: "rate_limit_error"}
    return names.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")  # noqa: PLR2004
