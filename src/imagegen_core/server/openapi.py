"""The OpenAPI document with the fields that plugins declare."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI

from imagegen_core.parameter import Parameter

_BODIES = {"GenerateBody": False, "ImagesBody": False, "Txt2ImgBody": True, "Img2ImgBody": True}
"""The bodies with plugins' fields, and whether they take fields that nobody declares."""


def describe_parameters(app: FastAPI, parameters: Iterable[Parameter]) -> None:
    """Add plugins' parameters to the application's document.

    This is FastAPI's way to extend it: https://fastapi.tiangolo.com/how-to/extending-openapi/.
    """
    make, fields = app.openapi, {parameter.name: parameter.schema for parameter in parameters}

    def document() -> dict[str, Any]:
        schema = make()
        for name, is_open in _BODIES.items():
            body = schema["components"]["schemas"][name]
            body["properties"].update(fields)
            body["additionalProperties"] = is_open
        return schema

    app.openapi = document  # type: ignore[method-assign]
