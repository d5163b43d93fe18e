"""The version of the contract between imagegen-core and its plugins, and a plugin's declared version.

The contract is everything that a plugin may rely on: the names that `imagegen_core` and `imagegen_core.diffusion`
export, the hooks, the protocols, the settings' names and the HTTP routes. A plugin module declares its version by
``requires_contract = "1.0"``.
"""

from __future__ import annotations

import ast
import re
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from imagegen_core.distributions import installed_version
from imagegen_core.plugins.plugin import CORE, Plugin

CONTRACT_VERSION = "1.0"
"""MAJOR.MINOR: a greater minor adds, a greater major also removes."""
OLDEST_SUPPORTED = "1.0"
"""The oldest contract with support for its plugins."""
DECLARATION = "requires_contract"

_FORM = re.compile(r"(\d{1,4})\.(\d{1,4})", re.ASCII)


def objection(declared: object, plugin: Plugin) -> tuple[str, str] | None:
    """Return cause and mend if a plugin is written for an unsupported contract.

    Args:
        declared: Its ``requires_contract``; None means the first version of the current major.
        plugin: The plugin.
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
    """Read the declaration of a module that does not import from its source; return None if there is none."""
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
    """Find a module's spec without importing its packages."""
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
