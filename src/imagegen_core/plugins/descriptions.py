"""Check the descriptions of a plugin's offers for faults that only their use would show."""

from __future__ import annotations

from types import ModuleType

from imagegen_core.backend import Backend
from imagegen_core.errors import InvalidRequestError
from imagegen_core.plugins import hookspecs


def forgotten_hooks(module: ModuleType) -> list[str]:
    """List the functions of a plugin's module that have a hook's name, and lack ``@hookimpl``."""
    return [
        name
        for name, value in vars(module).items()
        if name.startswith(f"{hookspecs.PROJECT}_")
        and hasattr(hookspecs, name)
        and callable(value)
        and not hasattr(value, f"{hookspecs.PROJECT}_impl")
    ]


def size_fault(backend: Backend) -> str | None:
    """Return the fault of a backend's default size, in words; None if it is valid."""
    from imagegen_core.request import Size  # pydantic reads all distributions: the probe leaves out broken ones first

    try:
        Size.parse(backend.default_size)
    except InvalidRequestError as error:
        return f"the default_size of its backend {backend.name} is no size: {error}"
    return None
