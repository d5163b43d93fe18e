"""Check a request's plugin parameters against their declarations, and fill in the defaults."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from imagegen_core.backend import Backend
from imagegen_core.errors import ImagegenError, InvalidRequestError, SettingsError
from imagegen_core.modes import Mode
from imagegen_core.parameter import Parameter
from imagegen_core.request import GenerateRequest, shown

Request = TypeVar("Request", bound=GenerateRequest)


def complete_parameters(
    request: Request, declared: Mapping[str, Parameter], backend: Backend | None, mode: Mode | None = None
) -> Request:
    """Check the parameters of a request, and add the defaults of its mode and of their declarations.

    Args:
        request: The request; its parameters need not be checked.
        declared: All declared parameters by name.
        backend: The backend that will draw the request; None if it is not known yet.
        mode: The request's mode; None has no defaults.

    Raises:
        InvalidRequestError: A parameter is not declared, has a wrong value, or is not supported by the backend.
    """
    defaults = {parameter.name: parameter.default for parameter in parameters_of(declared.values(), backend)}
    given = {name: _checked(name, value, declared) for name, value in request.parameters.given.items()}
    for name, value in given.items():
        if name not in defaults and backend is not None and value != declared[name].default:
            raise InvalidRequestError(
                f"Invalid {name} {shown(value)} for the backend '{backend.name}': it does not support it; leave it out",
                name,
            )
    preset = mode.table.parameters if mode is not None else {}
    values = {name: value for name, value in {**preset, **given}.items() if name in defaults}
    return request.with_parameters(values, defaults)


def parameters_of(declared: Iterable[Parameter], backend: Backend | None) -> list[Parameter]:
    """Return the parameters that a backend supports; all of them if the backend is not known."""
    if backend is None:
        return [*declared]
    return [each for each in declared if each.fits(backend.name) and each.name not in backend.without]


def parse_parameters(texts: Iterable[str], declared: Mapping[str, Parameter]) -> dict[str, Any]:
    """Parse ``NAME=VALUE`` texts of the command line.

    Raises:
        InvalidRequestError: A text has another form, or its parameter is not declared or has a wrong value.
    """
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InvalidRequestError(f"Invalid --set {shown(text)}: expected NAME=VALUE")
        values[name] = _declared(name, declared).parse(value)
    return values


def check_modes(modes: Iterable[Mode], declared: Mapping[str, Parameter]) -> None:
    """Check the parameters of modes.

    Raises:
        SettingsError: A mode has a parameter that is not declared, or a wrong value.
    """
    for mode in modes:
        for name, value in mode.table.parameters.items():
            try:
                _checked(name, value, declared)
            except ImagegenError as error:
                raise SettingsError(f"The parameters of mode {mode.name} are wrong: {error}") from error


def _checked(name: str, value: object, declared: Mapping[str, Parameter]) -> Any:
    return _declared(name, declared).check(value)


def _declared(name: str, declared: Mapping[str, Parameter]) -> Parameter:
    if name in declared:
        return declared[name]
    known = [*GenerateRequest.model_fields, *declared]
    near = difflib.get_close_matches(name, known, 1)
    mend = f"did you mean {near[0]}?" if near else "leave it out, or install the plugin that declares it"
    raise InvalidRequestError(f"Unknown field {shown(name)}, which no installed plugin declares: {mend}", name[:64])
