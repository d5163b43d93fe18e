"""Compare the offers of all plugins: one plugin names what another declares, and several may draw the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product

from imagegen_core.backend import Backend
from imagegen_core.description import PLAIN_FORMATS
from imagegen_core.plugins.probe import Report
from imagegen_core.request import GenerateRequest


def remarks_on(reports: Mapping[str, Report], order: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield remarks on plugins that do not fit together, each with its mend.

    Args:
        reports: The report on each plugin, by the plugin's name.
        order: The setting ``backends``.

    Yields:
        The plugin's name, and the sentence.
    """
    families, formats, parameters = (_offered(reports.values(), noun) for noun in ("family", "format", "parameter"))
    fields = {*GenerateRequest.model_fields, *parameters}
    for plugin, report in reports.items():
        for backend in report.backends:
            for name in backend.architectures:
                if name not in {*families, "*"}:
                    yield plugin, _undeclared(backend, f"family '{name}'", "imagegen_families")
            for name in backend.formats:
                if name not in formats and name not in PLAIN_FORMATS:
                    yield plugin, _undeclared(backend, f"format '{name}'", "imagegen_formats")
            for name in backend.without:
                if name not in fields:
                    yield plugin, _unknown_field(backend, name)
    yield from _ties(reports, order)


def _undeclared(backend: Backend, what: str, hook: str) -> str:
    return (
        f"its backend {backend.name} draws the {what}, which no installed plugin declares, so no checkpoint selects "
        f"it: declare it by {hook}, or install the plugin that does"
    )


def _unknown_field(backend: Backend, name: str) -> str:
    optional = [field for field in GenerateRequest.model_fields if field not in ("prompt", "seed")]
    return (
        f"its backend {backend.name} is without '{name}', which is no field of requests, and which no installed plugin "
        f"declares: expected some of {', '.join(optional)}"
    )


def _ties(reports: Mapping[str, Report], order: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield a remark on each backend that shares the highest rank for a kind of checkpoint with another."""
    owners = {backend.name: plugin for plugin, report in reports.items() for backend in report.backends}
    backends = [backend for report in reports.values() for backend in report.backends]
    formats = {name for backend in backends for name in backend.formats}
    families = {name for backend in backends for name in backend.architectures if name != "*"}
    for model_format, family in product(sorted(formats), sorted(families)):
        fitting = [backend for backend in backends if backend.draws(model_format, family)]
        best = min((_rank(backend, order) for backend in fitting), default=None)
        equal = [backend for backend in fitting if _rank(backend, order) == best]
        home = next((plugin for plugin, report in reports.items() if family in _offered([report], "family")), None)
        equal.sort(key=lambda backend: (owners[backend.name] != home, backend.name))
        for backend in equal if len(equal) > 1 else ():
            others = " and ".join(other.name for other in equal if other is not backend)
            yield (
                owners[backend.name],
                (
                    f"its backend {backend.name} draws {family} with the same priority as {others}, and imagegen takes "
                    f"{equal[0].name}: set IMAGEGEN_BACKENDS={backend.name} to prefer this backend"
                ),
            )


def _rank(backend: Backend, order: Sequence[str]) -> tuple[int, int]:
    return (order.index(backend.name) if backend.name in order else len(order), -backend.priority)


def _offered(reports: Iterable[Report], noun: str) -> set[str]:
    offers = (offer.partition(" ") for report in reports for offer in report.plugin.offers)
    return {name for kind, _, name in offers if kind == noun}
