"""A look at one plugin, in a process of its own that `doctor` starts and a plugin may well bring down."""

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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer

from imagegen_core.distributions import leave_out_broken_distributions
from imagegen_core.importing import import_named
from imagegen_core.plugins.discovery import Selection, discover, import_failure
from imagegen_core.plugins.isolation import contained, quoted
from imagegen_core.plugins.plugin import Plugin
from imagegen_core.plugins.registry import Registry

DESCRIBE_LIMIT = 20.0
"""Seconds in which a plugin must have said what it offers."""
LOAD_LIMIT = 90.0
"""Seconds in which what it describes must have been imported: torch takes its time from a cold disk."""

_HEAVY = ("torch", "diffusers", "transformers", "tensorflow", "jax")
_SLOW = 2.0  # seconds that every command would feel


@dataclass(slots=True)
class Report:
    """What the process tells the one that started it, whole again after every step.

    Attributes:
        path: The file that holds it.
        stage: What is done at the moment, such as ``when it is imported``.
        plugin: What is known of the plugin so far.
        references: The ``module:name`` of what the plugin describes, by offer.
        finished: Whether all that was asked for is done.
    """

    path: Path
    stage: str = "before it is imported"
    plugin: Plugin | None = None
    references: dict[str, str] | None = None
    finished: bool = False

    def write(self, stage: str) -> None:
        """Say what is about to be done."""
        self.stage = stage
        told = {key: value for key, value in asdict(self).items() if key != "path"}
        self.path.write_text(json.dumps(told), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Report:
        """What a process has told."""
        if not path.exists():
            return cls(path)
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        plugin = told.pop("plugin")
        return cls(path, plugin=plugin and Plugin(**plugin), **told)


def describe(name: str, report: Report) -> Registry:
    """Import the plugin of that name alone and ask what it offers, as every command does, and note how it behaves."""
    with _descriptors() as written:
        report.write("when it is imported")
        started = time.monotonic()
        found = list(discover(Selection(allowed=frozenset((name,)))))
        report.plugin = plugin = next(plugin for plugin, _ in found if plugin.name == name)
        report.write("when it says what it offers")
        registry = Registry(found)
        report.write("when it adds its commands")
        registry.add_commands(typer.Typer())
        if plugin.status == "ok":
            _remark_cost(plugin, time.monotonic() - started)
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
    return registry


def load(report: Report) -> None:
    """Import what the plugin describes, as the first use of each would."""
    plugin = report.plugin
    for offer, reference in (report.references or {}).items():
        if plugin is None or plugin.status != "ok":
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
        # The plugin is in order, and an extra of the core's not installed.
        plugin.remark(f"{plugin.cause}; {plugin.mend}")
        plugin.status, plugin.cause, plugin.mend = "ok", "", ""


def _references(registry: Registry) -> dict[str, str]:
    """What the plugin's offers name to be imported, by offer; the core's own offers are not looked at."""
    offered = {offer for plugin in registry.plugins for offer in plugin.offers}
    named = {
        **{f"backend {offer.name}": offer.worker for offer in registry.backends.values()},
        **{f"sampler {offer.name}": offer.scheduler for offer in registry.samplers.values()},
        **{f"upscaler {offer.name}": offer.factory for offer in registry.upscalers.values()},
        **{f"store {offer.name}": offer.factory for offer in registry.stores.values()},
    }
    return {offer: reference for offer, reference in named.items() if offer in offered}


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
    """Take what is written to the process's own stdout and stderr, past Python or not; known after the block."""
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
    """Look at the plugin that the command line names: ``describe`` or ``load``, its name, the report's file."""
    what, name, path = sys.argv[1:]
    leave_out_broken_distributions()
    logging.getLogger("imagegen_core").addHandler(logging.NullHandler())  # what imagegen warns of is in the report
    report = Report(Path(path))
    describe(name, report)
    if what == "load":
        load(report)
    report.finished = True
    report.write("done")
    os._exit(0)  # threads and exit handlers that the plugin left behind are not waited for


if __name__ == "__main__":
    main()
