"""The OpenAPI document with the fields that plugins declare, and with forms beside JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI

from imagegen_core.parameter import Parameter
from imagegen_core.server.form_fields import WHOLE
from imagegen_core.server.routes.forms import FORM

_BODIES = {
    "GenerateBody": False,
    "ImagesBody": False,
    "EditBody": False,
    "VariationBody": False,
    "Txt2ImgBody": True,
}
"""The bodies with plugins' fields, and whether they take fields that nobody declares."""
_FORMS = {"GenerateBody": "GenerateForm", "EditBody": "EditForm", "VariationBody": "VariationForm"}
"""The bodies of `PictureRoute`, and the names of their forms."""
_FILE = {"type": "string", "contentMediaType": "application/octet-stream"}
_JSON = {"type": "string", "description": "The other fields as a JSON object."}


def describe_parameters(app: FastAPI, parameters: Iterable[Parameter]) -> None:
    """Add plugins' parameters and the forms to the application's document.

    This is FastAPI's way to extend it: https://fastapi.tiangolo.com/how-to/extending-openapi/.
    """
    make, fields = app.openapi, {parameter.name: parameter.schema for parameter in parameters}

    def document() -> dict[str, Any]:
        schema = make()
        schemas = schema["components"]["schemas"]
        for name, is_open in _BODIES.items():
            schemas[name]["properties"].update(fields)
            schemas[name]["additionalProperties"] = is_open
        schemas |= {form: _form(schemas[name]) for name, form in _FORMS.items()}
        for path in schema["paths"].values():
            for operation in path.values():
                content = operation.get("requestBody", {}).get("content", {})
                body = content.get("application/json", {}).get("schema", {}).get("$ref", "").rpartition("/")[2]
                if body in _FORMS:
                    content[FORM] = {"schema": {"$ref": f"#/components/schemas/{_FORMS[body]}"}}
        return schema

    app.openapi = document  # type: ignore[method-assign]


def _form(body: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a form: pictures are files, and objects are JSON, as OpenAPI has them in forms."""
    files = {name: _FILE for name in ("image", "mask") if name in body["properties"]}
    properties = {**body["properties"], **files, WHOLE: _JSON}
    return {"type": "object", "title": "Form", "properties": properties, "additionalProperties": False}
