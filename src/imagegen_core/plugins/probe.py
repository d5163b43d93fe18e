"""Check one plugin in a separate process. `doctor` starts it, since a plugin may crash it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import typer

from imagegen_core.backend import Backend
from imagegen_core.distributions import leave_out_broken_distributions
from imagegen_core.importing import import_named
from imagegen_core.plugins import descriptions
from imagegen_core.plugins.discovery import Selection, discover, find, import_failure
from imagegen_core.plugins.isolation import contained, quoted
from imagegen_core.plugins.plugin import Plugin
from imagegen_core.plugins.registry import Registry

DESCRIBE_LIMIT = 20.0
"""Time limit for a plugin to state its offers, in seconds."""
LOAD_LIMIT = 90.0
"""Time limit to import its offers, in seconds; torch is slow to load from a cold disk."""

_HEAVY = ("torch", "diffusers", "transformers", "tensorflow", "jax")
_SLOW = 2.0  # seconds that would delay every command


@dataclass(slots=True)
class Report:
    """The process's report to its parent, complete after every step.

    Attributes:
        path: The file of the report.
        plugin: The state of the plugin so far.
        stage: The current step, such as ``when it is imported``.
        references: The ``module:name`` of each offer of the plugin.
        backends: Its backends, with the fields that `comparison` needs.
        finished: Whether all requested steps are done.
    """

    path: Path
    plugin: Plugin
    stage: str = "before it is imported"
    references: dict[str, str] = field(default_factory=dict)
    backends: list[Backend] = field(default_factory=list)
    finished: bool = False

    def write(self, stage: str) -> None:
        """Write the report before the next step."""
        self.stage = stage
        told = {key: value for key, value in asdict(self).items() if key != "path"}
        self.path.write_text(json.dumps(told), encoding="utf-8")

    @classmethod
    def read(cls, path: Path, plugin: Plugin) -> Report:
        """Read a process's report about a plugin; without one, the plugin's state is as before."""
        if not path.exists():
            return cls(path, plugin)
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        backends = [Backend(**backend) for backend in told.pop("backends")]
        return cls(path, Plugin(**told.pop("plugin")), backends=backends, **told)


def describe(name: str, report: Report) -> Registry:
    """Import the named plugin alone, ask for its offers as every command does, and record its behaviour."""
    with _descriptors() as written:
        report.write("when it is imported")
        started = time.monotonic()
        plugins = list(discover(Selection(allowed=frozenset((name,)))))
        plugin, module = next(found for found in plugins if found[0].name == name)
        report.plugin = plugin
        report.write("when it says what it offers")
        registry = Registry(plugins)
        report.write("when it adds its commands")
        registry.add_commands(typer.Typer())
        if plugin.status == "ok":
            _remark_cost(plugin, time.monotonic() - started)
            _check_descriptions(plugin, module, registry)
        if importlib.util.find_spec("fastapi"):
            from fastapi import APIRouter

            report.write("when it adds its routes")
            registry.add_routes(APIRouter())
    for stream, text in written.items():
        plugin.remark(
            f"it writes to {stream} when it says what it offers ({text}), in every command: "
            f"ask the authors of {plugin.distribution} to use logging"
        )
    report.references = _references(registry)
    report.backends = [_comparable(backend) for backend in registry.backends.values()]
    return registry


def _check_descriptions(plugin: Plugin, module: ModuleType | None, registry: Registry) -> None:
    """Mark the plugin as broken by a fault that only the use of an offer would show."""
    for hook in descriptions.forgotten_hooks(module) if module else ():
        cause = f"it defines {hook} without @hookimpl, so imagegen never calls it"
        plugin.broke(cause, f"mark it with imagegen_core.hookimpl, or {plugin.update}")
    for backend in registry.backends.values():
        if fault := descriptions.size_fault(backend):
            plugin.broke(fault, plugin.update)


def load(report: Report) -> None:
    """Import the plugin's offers, as the first use of each would."""
    plugin = report.plugin
    for offer, reference in report.references.items():
        if plugin.status != "ok":
            return
        report.write(f"when {reference} of its {offer} is imported")
        _load(plugin, offer, reference, report.stage)


def _load(plugin: Plugin, offer: str, reference: str, doing: str) -> None:
    def diagnose(error: BaseException) -> tuple[str, str]:
        cause, mend = import_failure(error, reference, plugin)
        return f"its {offer} cannot be used: {cause}", mend

    from imagegen_core.worker import NeedsLibraries

    before = plugin.status
    with contained(plugin, doing, diagnose, LOAD_LIMIT):
        described = import_named(reference)
        if isinstance(described, NeedsLibraries):
            described.import_libraries()
    if plugin.status != before and reference.startswith("imagegen_core."):
        # The plugin works, but an extra of the core is not installed.
        plugin.remark(f"{plugin.cause}; {plugin.mend}")
        plugin.status, plugin.cause, plugin.mend = "ok", "", ""


def _references(registry: Registry) -> dict[str, str]:
    """Return the import references of the plugin's offers, by offer, without the core's own."""
    offered = {offer for plugin in registry.plugins for offer in plugin.offers}
    named = {
        **{f"backend {offer.name}": offer.worker for offer in registry.backends.values()},
        **{f"sampler {offer.name}": offer.scheduler for offer in registry.samplers.values()},
        **{f"extension {offer.name}": offer.factory for offer in registry.extensions.values()},
        **{f"upscaler {offer.name}": offer.factory for offer in registry.upscalers.values()},
        **{f"store {offer.name}": offer.factory for offer in registry.stores.values()},
        **{f"extension {offer.name}": offer.factory for offer in registry.extensions.values()},
    }
    models = {f"settings of backend {backend.name}": backend.settings for backend in registry.backends.values()}
    return {
        **{offer: reference for offer, reference in named.items() if offer in offered},
        **{settings: reference for settings, reference in models.items() if reference is not None},
    }


def _comparable(backend: Backend) -> Backend:
    """Return a backend with the fields that `comparison` needs; the others may not fit into JSON."""
    names = {field: tuple(map(str, getattr(backend, field))) for field in ("architectures", "formats", "without")}
    return Backend(backend.name, "", "", "", priority=int(backend.priority), **names)  # type: ignore[arg-type]


def _remark_cost(plugin: Plugin, seconds: float) -> None:
    heavy = [module for module in _HEAVY if module in sys.modules]
    if heavy:
        plugin.remark(
            f"it imports {' and '.join(heavy)} to say what it offers, and every command waits {seconds:.1f} s for it: "
            f"ask the authors of {plugin.distribution} to import on first use"
        )
    elif seconds > _SLOW:
        plugin.remark(
            f"it takes {seconds:.1f} s to say what it offers, for which every command waits: "
            f"ask the authors of {plugin.distribution} to import on first use"
        )


@contextlib.contextmanager
def _descriptors() -> Iterator[dict[str, str]]:
    """Capture writes to the process's own stdout and stderr, from Python or not; filled after the block."""
    written: dict[str, str] = {}
    files = {"stdout": tempfile.TemporaryFile(), "stderr": tempfile.TemporaryFile()}  # noqa: SIM115
    for descriptor, file in enumerate(files.values(), start=1):
        os.dup2(file.fileno(), descriptor)
    yield written
    sys.stdout.flush()
    sys.stderr.flush()
    for stream, file in files.items():
        file.seek(0)
        if text := quoted(file.read()):
            written[stream] = text


def main() -> None:
    """Check the plugin on the command line: ``describe`` or ``load``, its name, and the report's file."""
    what, name, path = sys.argv[1:]
    leave_out_broken_distributions()
    logging.getLogger("imagegen_core").addHandler(logging.NullHandler())  # the report contains imagegen's warnings
    plugin = next(plugin for plugin, _ in find(Selection(frozenset((name,)))) if plugin.name == name)
    report = Report(Path(path), plugin)
    describe(name, report)
    if what == "load":
        load(report)
    report.finished = True
    report.write("done")
    os._exit(0)  # do not wait for the plugin's threads and exit handlers


if __name__ == "__main__":
    main()
