"""The public surface as text: ``python -m tests.public_surface > tests/public_surface.txt`` records it."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from imagegen_core.plugins import hookspecs

MODULES = ("imagegen_core", "imagegen_core.diffusion", "imagegen_core.testing")
_SPECIAL = {"__aenter__", "__aexit__", "__await__", "__call__", "__enter__", "__exit__", "__iter__", "__str__"}


def surface() -> str:
    """Return every public name with its signature, methods and fields, one per line."""
    lines = [line for name in MODULES for line in _module(importlib.import_module(name))]
    hooks = (name for name in vars(hookspecs) if name.startswith("imagegen_"))
    lines += [f"hook {name}{_signature(getattr(hookspecs, name))}" for name in sorted(hooks)]
    return "\n".join([*lines, ""])


def _module(module: ModuleType) -> Iterator[str]:
    for name in sorted(module.__all__):
        yield from _described(f"{module.__name__}.{name}", getattr(module, name))


def _described(name: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value):
        yield from _class(name, value)
    elif inspect.isroutine(value):
        yield f"{name}{_signature(value)}"
    elif isinstance(value, str):
        yield f"{name} = {value!r}"
    else:
        yield f"{name}: {value if type(value).__module__ in ('types', 'typing') else type(value).__name__}"


def _class(name: str, cls: type) -> Iterator[str]:
    bases = ", ".join(base.__name__ for base in cls.__bases__ if base is not object)
    yield f"class {name}({bases})" if bases else f"class {name}"
    own_bases = [base for base in cls.__mro__ if base.__module__.startswith("imagegen_core")]
    has_fields = dataclasses.is_dataclass(cls) or hasattr(cls, "model_fields")
    members: dict[str, str] = {}
    for base in reversed(own_bases):
        for attribute, annotation in inspect.get_annotations(base).items():
            if not attribute.startswith("_"):
                members[attribute] = f"    {attribute}: {annotation}{_default(cls, attribute)}"
        for attribute, member in vars(base).items():
            public = attribute in _SPECIAL or not attribute.startswith("_")
            is_own_init = attribute == "__init__" and not has_fields
            if (public or is_own_init) and (described := _member(attribute, member)):
                members[attribute] = f"    {described}"
    yield from members.values()  # in order, because fields may also be positional arguments


def _member(name: str, member: Any) -> str | None:
    """Return the line of a method or property, or None for a field or a member from elsewhere."""
    if isinstance(member, (staticmethod, classmethod)):
        return f"{type(member).__name__} {name}{_signature(member.__func__)}"
    if isinstance(member, property):
        return f"property {name}{_signature(member.fget)}"
    if inspect.isfunction(member) and member.__module__.startswith("imagegen_core"):
        return f"{name}{_signature(member)}"
    return None


def _default(cls: Any, name: str) -> str:
    if dataclasses.is_dataclass(cls):
        field = next((field for field in dataclasses.fields(cls) if field.name == name), None)
        if field is None or field.default is field.default_factory is dataclasses.MISSING:
            return ""
        return " = ..." if field.default is dataclasses.MISSING else f" = {_text(field.default)}"
    if name in getattr(cls, "model_fields", {}):
        return _model_default(cls.model_fields[name])
    static = inspect.getattr_static(cls, name, inspect.Parameter.empty)
    return "" if static is inspect.Parameter.empty or inspect.isdatadescriptor(static) else f" = {_text(static)}"


def _model_default(field: Any) -> str:
    bounds = [bound for bound in field.metadata if type(bound).__module__ == "annotated_types"]
    default = "" if field.is_required() else " = ..." if field.default_factory else f" = {_text(field.default)}"
    return f"{default}  {bounds}" if bounds else default


class _Verbatim:
    """An annotation whose repr is its source text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _signature(function: Any) -> str:
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=_written(parameter.annotation)) for parameter in signature.parameters.values()
    ]
    returns = _written(signature.return_annotation)
    return _text(signature.replace(parameters=parameters, return_annotation=returns))


def _written(annotation: Any) -> Any:
    return _Verbatim(annotation) if isinstance(annotation, str) else annotation


def _text(value: Any) -> str:
    """Return `value` as text without addresses, which differ from run to run."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value) if isinstance(value, inspect.Signature) else repr(value))


if __name__ == "__main__":
    sys.stdout.write(surface())
