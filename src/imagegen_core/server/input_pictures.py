"""Read the input pictures of a request's body: from the body, the store, or an allowed host."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import anyio.to_thread

from imagegen_core.errors import InvalidRequestError, PictureError
from imagegen_core.picture_files.input_picture import InputPicture
from imagegen_core.request import GenerateRequest
from imagegen_core.server.body_picture import PictureUrl, StoredPicture
from imagegen_core.server.picture_urls import fetch_picture
from imagegen_core.storage import is_owned, is_uuid, key_of, plain_key

if TYPE_CHECKING:
    from PIL.Image import Image

    from imagegen_core.server.context import ServerContext

Request = TypeVar("Request", bound=GenerateRequest)

_FIELDS = ("image", "mask")
_QUICK = 1  # zlib's level for pictures that stay on this server


async def with_pictures(request: Request, context: ServerContext, caller: str) -> Request:
    """Return a request with its input pictures in memory, and their headers read.

    Raises:
        InvalidRequestError: A picture cannot be read or is too large, or its key or its URL's host is not allowed.
    """
    found = await read_pictures({name: getattr(request, name) for name in _FIELDS}, context, caller)
    return request.model_copy(update=found) if found else request


async def read_pictures(given: Mapping[str, Any], context: ServerContext, caller: str) -> dict[str, InputPicture]:
    """Return the pictures of a body's fields, with their headers read on another thread.

    Args:
        given: Values of `BodyPicture` by field.
        context: The server's context.
        caller: The name of the API key's owner.

    Raises:
        InvalidRequestError: See `with_pictures`.
    """
    found = {name: await _found(name, value, context, caller) for name, value in given.items() if value is not None}
    return await anyio.to_thread.run_sync(_read, found, context) if found else {}


def encoded(image: Image, name: str) -> InputPicture:
    """Return a changed picture as an input picture, with its header read on this thread."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=_QUICK)
    picture = InputPicture(buffer.getvalue(), name)
    _ = picture.size
    return picture


async def _found(field: str, value: object, context: ServerContext, caller: str) -> InputPicture:
    if isinstance(value, StoredPicture):
        return InputPicture(await _stored(field, value.key, context, caller), f"the {field}")
    if isinstance(value, PictureUrl):
        hosts, limit = context.settings.picture_hosts, context.settings.max_body_bytes
        return InputPicture(await fetch_picture(value.url, hosts, limit, field), f"the {field}")
    return InputPicture.of(value, f"the {field}")


async def _stored(field: str, key: str, context: ServerContext, caller: str) -> bytes:
    """Return a caller's own stored picture; the pictures of others seem missing."""
    if context.store is None:
        raise InvalidRequestError(
            f"Invalid {field}: storage is disabled on this server, so it has no key {key[:64]!r}; send the picture",
            field,
        )
    try:
        plain = plain_key(key)
    except InvalidRequestError as error:
        raise InvalidRequestError(str(error), field) from error
    is_own = not is_uuid(plain) or not caller or is_owned(plain, caller)
    stored = plain if is_uuid(plain) else key_of(caller, plain)
    data = await context.storing(context.store.get, stored) if is_own else None
    if not data:
        raise InvalidRequestError(
            f"Invalid {field}: nothing is kept under {key[:64]!r}, or no longer; store the picture again", field
        )
    return data


def _read(pictures: Mapping[str, InputPicture], context: ServerContext) -> dict[str, InputPicture]:
    """Return the pictures as bytes with their headers read, and refuse large pictures; base64 is not kept."""
    read = {}
    for field, picture in pictures.items():
        try:
            read[field] = InputPicture(picture.data, picture.name)
            size = read[field].size
        except PictureError as error:
            raise InvalidRequestError(str(error), field) from error
        context.limits.check_picture(field, *size)
    return read
