"""A field of requests for an input picture."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic_core import core_schema

from imagegen_core.picture_files.input_picture import InputPicture

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler

    PictureSource: TypeAlias = bytes | str | Path | Image | InputPicture | None
else:
    PictureSource = Any


@dataclass(frozen=True)
class PictureField:
    """Converts a field's value to an `InputPicture`, for pydantic; in JSON it is base64.

    Attributes:
        name: The picture's name in errors.
    """

    name: str

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Return the validation and the serialization."""
        return core_schema.no_info_plain_validator_function(
            self._read,
            serialization=core_schema.plain_serializer_function_ser_schema(_base64, when_used="json"),
        )

    def __get_pydantic_json_schema__(self, _schema: Any, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the schema of JSON: base64, or nothing."""
        return {"anyOf": [{"type": "string", "contentEncoding": "base64"}, {"type": "null"}]}

    def _read(self, value: object) -> InputPicture | None:
        try:
            return None if value is None else InputPicture.of(value, f"the {self.name}")
        except TypeError as error:
            raise ValueError(str(error)) from error  # pydantic passes a TypeError on


def _base64(picture: InputPicture | None) -> str | None:
    return None if picture is None else b64encode(picture.data).decode()
