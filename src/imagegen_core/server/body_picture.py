"""A field of request bodies for an input picture: its data, or the place where it lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imagegen_core.errors import InvalidRequestError
from imagegen_core.request import shown
from imagegen_core.request.picture_field import PictureField

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler

_URLS = ("http://", "https://")


@dataclass(frozen=True)
class StoredPicture:
    """A picture of the caller's in the server's store.

    Attributes:
        key: Its key, as the caller writes it.
    """

    key: str


@dataclass(frozen=True)
class PictureUrl:
    """A picture on another server.

    Attributes:
        url: Its address, of the scheme http or https.
    """

    url: str


class BodyPicture(PictureField):
    """Converts a field's value to an `InputPicture`, a `StoredPicture` or a `PictureUrl`, for pydantic.

    A value is base64, a data URL, a file's bytes, a URL, ``{"key": …}``, or as in OpenAI's JSON ``{"image_url": …}``. A
    list with one value counts as this value: OpenAI's client sends lists.
    """

    def __get_pydantic_json_schema__(self, _schema: Any, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the schema of JSON."""
        key = {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]}
        text = {"type": "string", "description": "base64, a data URL, or a URL of an allowed host"}
        return {"anyOf": [text, key | {"additionalProperties": False}, {"type": "null"}]}

    def _read(self, value: object) -> Any:
        if isinstance(value, list):
            if len(value) != 1:
                raise InvalidRequestError(
                    f"Invalid {self.name} with {len(value)} pictures: this server draws from one picture; send one",
                    self.name,
                )
            (value,) = value
        if isinstance(value, Mapping) and len(value) == 1:
            ((kind, text),) = value.items()
            if kind == "key" and isinstance(text, str):
                return StoredPicture(text)
            if kind == "image_url":
                value = text
        if isinstance(value, str) and value.startswith(_URLS):
            return PictureUrl(value)
        if value is None or isinstance(value, str | bytes):
            return super()._read(value)
        raise InvalidRequestError(
            f"Invalid {self.name} {shown(value)}: expected base64, a data URL, or the key of a stored picture as "
            '{"key": "…"}',
            self.name,
        )
