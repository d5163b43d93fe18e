"""Find plugins, and import each separately, so that a broken plugin breaks nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint
from types import ModuleType

from imagegen_core.distributions import broken_distributions, entry_points
from imagegen_core.importing import explain, in_words
from imagegen_core.plugins import contract
from imagegen_core.plugins.isolation import contained
from imagegen_core.plugins.plugin import CORE, DENY_VARIABLE, Plugin

ENTRY_POINT_GROUP = "imagegen.plugins"
ALLOW_VARIABLE = "IMAGEGEN_PLUGINS"


@dataclass(frozen=True, slots=True)
class Selection:
    """The entry points that may be imported: all or the allowed ones, without the denied ones."""

    allowed: frozenset[str] | None = None
    denied: frozenset[str] = frozenset()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Selection:
        """Read ``IMAGEGEN_PLUGINS`` and ``IMAGEGEN_PLUGINS_DISABLED``, comma-separated entry-point names."""
        environ = os.environ if environ is None else environ
        allowed, denied = (_names(environ.get(variable, "")) for variable in (ALLOW_VARIABLE, DENY_VARIABLE))
        return cls(allowed or None, denied)

    def refusal(self, name: str) -> tuple[str, str] | None:
        """Return cause and mend if `name` must not be imported."""
        if name in self.denied:
            return f"{DENY_VARIABLE} names it", f"take it out of {DENY_VARIABLE}"
        if self.allowed is not None and name not in self.allowed:
            return f"{ALLOW_VARIABLE} does not name it", f"add it to {ALLOW_VARIABLE}"
        return None


def find(selection: Selection) -> Iterator[tuple[Plugin, EntryPoint]]:
    """Yield the installed entry points in order of their names, the forbidden ones marked; import none."""
    taken: dict[str, Plugin] = {}
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name):
        plugin = Plugin(entry.name, *_distribution(entry))
        if refusal := selection.refusal(entry.name):
            plugin.status, (plugin.cause, plugin.mend) = "disabled", refusal
        elif entry.name in taken:
            plugin.broke(
                f"the entry-point name '{entry.name}' is already taken by {taken[entry.name].distribution}",
                f"uninstall {plugin.distribution} or {taken[entry.name].distribution}",
            )
        elif not entry.pattern.match(entry.value):
            plugin.broke(f"its entry point leads to {entry.value!r}, where a module's name belongs", plugin.update)
        else:
            taken[entry.name] = plugin
        yield plugin, entry


def discover(selection: Selection) -> Iterator[tuple[Plugin, ModuleType | None]]:
    """Import the allowed entry points one by one, in order of their names.

    Yields:
        Each plugin with its module; the module is None if the plugin is disabled or broken.
    """
    for plugin, entry in find(selection):
        yield plugin, _import(entry, plugin) if plugin.status == "ok" else None
    for plugin in unreadable(selection):
        yield plugin, None


def unreadable(selection: Selection) -> Iterator[Plugin]:
    """Yield the plugins of distributions with unreadable metadata."""
    for distribution in broken_distributions():
        for name in distribution.names(ENTRY_POINT_GROUP):
            plugin = Plugin(name, distribution.name, distribution.version)
            if refusal := selection.refusal(name):
                plugin.status, (plugin.cause, plugin.mend) = "disabled", refusal
            else:
                plugin.broke(distribution.cause, distribution.mend)
            yield plugin


def import_failure(error: BaseException, what: str, plugin: Plugin) -> tuple[str, str]:
    """Return cause and mend of a failed import.

    Args:
        error: The exception.
        what: The imported name, ``module`` or ``module:name``.
        plugin: The plugin.
    """
    match error:
        case ImportError(name=str(lacking)) if lacking.partition(".")[0] == "imagegen_core":
            return (
                f"importing {what} needs another imagegen-core: {in_words(error)}",
                f"pip install --upgrade {CORE} {plugin.distribution}",
            )
    failure = explain(error, what)
    return failure.cause, failure.mend or plugin.update


def _import(entry: EntryPoint, plugin: Plugin) -> ModuleType | None:
    """Import the module of an entry point; return None if it fails or is for another contract."""

    def diagnose(error: BaseException) -> tuple[str, str]:
        # A plugin for another contract fails in many ways; report the contract as the reason.
        reason = contract.objection(contract.declared_in_source(entry.module), plugin)
        return reason or import_failure(error, entry.value, plugin)

    loaded = None
    with contained(plugin, "when it is imported", diagnose):
        module = import_module(entry.module)
        if reason := contract.objection(vars(module).get(contract.DECLARATION), plugin):
            plugin.broke(*reason)
        else:
            loaded = entry.load()
    return loaded


def _distribution(entry: EntryPoint) -> tuple[str, str]:
    return (entry.dist.name, entry.dist.version) if entry.dist else ("unknown", "")


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())
