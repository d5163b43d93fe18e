"""Finding plugins and importing each by itself, so that a broken one breaks nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Literal

ENTRY_POINT_GROUP = "imagegen.plugins"
ALLOW_VARIABLE = "IMAGEGEN_PLUGINS"
DENY_VARIABLE = "IMAGEGEN_PLUGINS_DISABLED"

Status = Literal["ok", "disabled", "broken"]


@dataclass(slots=True)
class Plugin:
    """One entry point and what became of it.

    Attributes:
        name: The entry point's name, by which the allow- and deny-list know it.
        distribution: Name of the installed distribution it comes with.
        version: That distribution's version.
        status: ``ok``, ``disabled`` by a list, or ``broken``.
        cause: Why it is not ``ok``, in a sentence.
        mend: What to do about it, in a sentence.
        offers: What it brought, such as ``backend sdxl``.
    """

    name: str
    distribution: str
    version: str
    status: Status = "ok"
    cause: str = ""
    mend: str = ""
    offers: list[str] = field(default_factory=list)

    def broke(self, cause: str, mend: str) -> None:
        """Mark the plugin as broken; the first cause stands."""
        if self.status == "ok":
            self.status, self.cause, self.mend = "broken", cause, mend


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entry points may be imported: all, or those allowed, and never those denied."""

    allowed: frozenset[str] | None = None
    denied: frozenset[str] = frozenset()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Selection:
        """Read ``IMAGEGEN_PLUGINS`` and ``IMAGEGEN_PLUGINS_DISABLED``, comma-separated entry-point names."""
        environ = os.environ if environ is None else environ
        allowed, denied = (_names(environ.get(variable, "")) for variable in (ALLOW_VARIABLE, DENY_VARIABLE))
        return cls(allowed or None, denied)

    def refusal(self, name: str) -> tuple[str, str] | None:
        """Cause and mend where `name` must not be imported."""
        if name in self.denied:
            return f"{DENY_VARIABLE} names it", f"take it out of {DENY_VARIABLE}"
        if self.allowed is not None and name not in self.allowed:
            return f"{ALLOW_VARIABLE} does not name it", f"add it to {ALLOW_VARIABLE}"
        return None


def discover(selection: Selection) -> Iterator[tuple[Plugin, ModuleType | None]]:
    """Import the allowed entry points one by one, in order of their names.

    Yields:
        Each plugin with its module, which is None where it is disabled or broken.
    """
    taken: dict[str, Plugin] = {}
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name):
        plugin = Plugin(entry.name, *_distribution(entry))
        if refusal := selection.refusal(entry.name):
            plugin.status, (plugin.cause, plugin.mend) = "disabled", refusal
            yield plugin, None
        elif entry.name in taken:
            plugin.broke(
                f"the entry-point name '{entry.name}' is already taken by {taken[entry.name].distribution}",
                f"uninstall {plugin.distribution} or {taken[entry.name].distribution}",
            )
            yield plugin, None
        else:
            taken[entry.name] = plugin
            yield plugin, _import(entry, plugin)


def _import(entry: EntryPoint, plugin: Plugin) -> ModuleType | None:
    try:
        return entry.load()  # type: ignore[no-any-return]
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a stranger's import does stays with it
        plugin.broke(*_diagnosis(error, entry, plugin))
        return None


def _diagnosis(error: BaseException, entry: EntryPoint, plugin: Plugin) -> tuple[str, str]:
    """Cause and mend of a failed import."""
    report = f"update {plugin.distribution}, or report it to its authors"
    match error:
        case ModuleNotFoundError(name=missing) if missing and not entry.module.startswith(missing):
            return (
                f"its import needs the module '{missing}', which is not installed",
                f"pip install {missing}",
            )
        case SystemExit():
            return f"importing {entry.module} ends the program (SystemExit)", report
        case SyntaxError():
            return f"{entry.module} is not valid Python: {error}", report
        case _:
            return f"importing {entry.value} raised {type(error).__name__}: {error}", report


def _distribution(entry: EntryPoint) -> tuple[str, str]:
    return (entry.dist.name, entry.dist.version) if entry.dist else ("unknown", "")


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())
