"""The page of all routes, made from the server's own description."""

from __future__ import annotations

import inspect
import json
from collections import defaultdict
from typing import Any

from docstrings import as_markdown, attributes
from tables import table

from imagegen_core import GenerateRequest, ImagegenError, Settings
from imagegen_core.server import create_app
from imagegen_core.server.errors import TABLE

_INTRODUCTION = """# HTTP

These are all routes of `imagegen serve`. [The server](../server.md) explains their use. A running server has the same
list at `/docs`, with a form for each route, and at `/openapi.json` for programs.
"""
_ERRORS = """## Errors

An error is `{"detail": …, "type": …, "field": …}`: a sentence, a word for programs, and the wrong field if there is
a single one. Below `/v1/images` and `/v1/models` it has OpenAI's shape, with 400 in place of 422. Below `/sdapi` it has
A1111's shape.
"""
_TITLES = {
    "state": "State",
    "pictures": "Pictures",
    "jobs": "Jobs",
    "modes": "Modes",
    "OpenAI": "OpenAI's",
    "A1111": "A1111's",
    "storage": "Storage",
}

_WRONG_INPUT = "422"
_NO_DESCRIPTION = "Successful Response"  # FastAPI's text for a response without a description

Schema = dict[str, Any]


def page() -> str:
    """Return the page as Markdown."""
    described = create_app(Settings()).openapi()
    families: dict[str, dict[tuple[str, str], list[str]]] = defaultdict(lambda: defaultdict(list))
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            families[operation["tags"][0]][method, operation["summary"]].append(path)
    parts = [_INTRODUCTION]
    for family, routes in families.items():
        parts += [
            f"## {_TITLES[family]}\n",
            *(_section(method, paths, described) for (method, _), paths in routes.items()),
        ]
    rows = [(str(status), f"`{kind}`", _first_line(error)) for error, status, kind in TABLE]
    return "\n".join([*parts, _ERRORS, table(["status", "`type`", "meaning"], rows)])


def _first_line(error: type[Exception]) -> str:
    if error is ImagegenError:
        return "Any other fault; see the message."
    return as_markdown((inspect.getdoc(error) or "").partition("\n")[0])


def _section(method: str, paths: list[str], described: Schema) -> str:
    """Return the section of a route, which may have several addresses."""
    operation = described["paths"][paths[0]][method]
    parts = [f"### {method.upper()} {', '.join(paths)}", as_markdown(operation.get("description", ""))]
    if parameters := operation.get("parameters"):
        rows = [
            (f"`{parameter['name']}`", parameter["in"], _type(parameter["schema"], described))
            for parameter in parameters
        ]
        parts.append(table(["parameter", "in", "type"], rows))
    for kind, body in operation.get("requestBody", {}).get("content", {}).items():
        if "Form" in body["schema"].get("$ref", ""):
            parts.append(f"Body, `{kind}`: the same fields, with files for pictures.")
            continue
        parts += [f"Body, `{kind}`:", _body(body["schema"], described)]
    return "\n\n".join([part for part in [*parts, _responses(operation)] if part] + [""])


def _responses(operation: Schema) -> str:
    """Return the route's own responses in words, without errors, which the page describes once."""
    own = {status: response for status, response in operation["responses"].items() if status != _WRONG_INPUT}
    return "Answers " + "; ".join(_response(status, response) for status, response in own.items()) + "."


def _response(status: str, response: Schema) -> str:
    description = "" if response["description"] == _NO_DESCRIPTION else f": {response['description'].lower()}"
    kinds = " or ".join(f"`{kind}`" for kind in response.get("content", {}))
    return f"`{status}`{description}{f', as {kinds}' if kinds else ''}"


def _body(schema: Schema, described: Schema) -> str:
    schema = _resolved(schema, described)
    if "properties" not in schema:
        return _type(schema, described)
    descriptions = attributes(GenerateRequest.__doc__ or "") | attributes(schema.get("description", ""))
    required = schema.get("required", [])
    rows = [
        (
            f"`{name}`",
            _type(field, described),
            "required" if name in required else _default(field),
            as_markdown(field.get("description") or descriptions.get(name, "")),
        )
        for name, field in schema["properties"].items()
    ]
    columns = ["field", "type", "default", "meaning"]
    has_meanings = any(row[-1] for row in rows)
    return table(columns, rows) if has_meanings else table(columns[:-1], [row[:-1] for row in rows])


def _default(field: Schema) -> str:
    return f"`{json.dumps(field['default'], ensure_ascii=False)}`" if field.get("default") is not None else ""


def _resolved(schema: Schema, described: Schema) -> Schema:
    """Return the schema, or the schema that its reference names."""
    if "$ref" not in schema:
        return schema
    target: Schema = described["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return target


def _type(schema: Schema, described: Schema) -> str:
    """Return a type in words, with its limits."""
    schema = _resolved(schema, described)
    if alternatives := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(
            _type(alternative, described) for alternative in alternatives if alternative.get("type") != "null"
        )
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "properties" in schema:
        return f"object of {', '.join(f'`{name}`' for name in schema['properties'])}"
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}), described)}"
    words = {"contentMediaType": "file", "minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "to {}"}
    kind = schema.get("type", "anything")
    return " ".join([kind, *(word.format(_plain(schema[key])) for key, word in words.items() if key in schema)])


def _plain(limit: object) -> str:
    """Return a limit without the ``.0`` that whole numbers have in the description."""
    return f"{limit:g}" if isinstance(limit, float) else str(limit)
