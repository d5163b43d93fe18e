"""The version of the contract between imagegen-core and its plugins, and what a plugin declares of it.

The contract is what a plugin may rely on: the names that `imagegen_core` and `imagegen_core.diffusion` export, the
hooks, the protocols, the settings' names and the HTTP routes. A plugin module declares the version it is written for
by ``requires_contract = "1.0"``.
"""

from __future__ import annotations

import ast
import re
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from imagegen_core.distributions import installed_version
from imagegen_core.plugins.plugin import CORE, Plugin

CONTRACT_VERSION = "1.0"
"""MAJOR.MINOR: a greater minor adds, a greater major also takes away."""
OLDEST_SUPPORTED = "1.0"
"""The oldest contract whose plugins still work."""
DECLARATION = "requires_contract"

_FORM = re.compile(r"(\d{1,4})\.(\d{1,4})", re.ASCII)


def objection(declared: object, plugin: Plugin) -> tuple[str, str] | None:
    """Cause and mend where a plugin is written for a contract that is not this one.

    Args:
        declared: Its ``requires_contract``; None, where it declares nothing, is the present major's first.
        plugin: Whose it is.
    """
    if declared is None:
        declared = f"{CONTRACT_VERSION.partition('.')[0]}.0"
    if not isinstance(declared, str) or not _FORM.fullmatch(declared):
        return (
            f"its {DECLARATION} is {declared!r}, where text such as {CONTRACT_VERSION!r} belongs",
            plugin.update,
        )
    if _number(declared) > _number(CONTRACT_VERSION):
        return (
            f"it is written for contract {declared}, and {_present()} has contract {CONTRACT_VERSION}",
            f"pip install --upgrade {CORE}",
        )
    if _number(declared) < _number(OLDEST_SUPPORTED):
        return (
            f"it is written for contract {declared}, and {_present()} supports contracts from {OLDEST_SUPPORTED} on",
            f"pip install --upgrade {plugin.distribution}",
        )
    return None


def declared_in_source(module: str) -> object:
    """What a module that does not import declares, read from its source; None where that is not to be found."""
    spec = _find(module)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    try:
        tree = ast.parse(Path(spec.origin).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=value)) if name == DECLARATION:
                return value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=value)) if name == DECLARATION:
                return value
    return None


def _find(module: str) -> ModuleSpec | None:
    """Where a module lies, found without importing the packages it is in."""
    path, spec = None, None
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:count]), path)
        if spec is None:
            return None
        path = spec.submodule_search_locations
    return spec


def _number(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _present() -> str:
    return f"{CORE} {installed_version(CORE) or 'of an unknown version'}"
