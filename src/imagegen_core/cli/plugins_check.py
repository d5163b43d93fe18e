"""``imagegen plugins check``: run the conformance kit on an installed plugin."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from imagegen_core.cli import console
from imagegen_core.errors import PluginError
from imagegen_core.importing import load_named
from imagegen_core.plugins.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imagegen_core.testing.check import Result

_MARKS = {"passed": "ok  ", "failed": "FAIL", "skipped": "skip"}


def check(
    name: Annotated[str, typer.Argument(help="A plugin, or one of its offers; see `imagegen plugins list`.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check that a plugin keeps the contract; explain each failed check.

    Backends are checked with the configured checkpoint.
    """
    run_checks = load_named("The conformance kit", "imagegen_core.testing.check:run_checks")
    from imagegen_core.testing.check import KITS

    offers = [offer for offer in _offers(name) if offer.partition(" ")[0] in KITS]
    if not offers:
        raise PluginError(f"The plugin '{name}' offers nothing to check: there are kits for {', '.join(KITS)}")
    results = run_checks(offers)
    if as_json:
        console.json_data([asdict(result) for result in results])
    else:
        _report(results)
    raise typer.Exit(1 if any(result.outcome == "failed" for result in results) else 0)


def _offers(name: str) -> Sequence[str]:
    """List a plugin's offers, or the one offer of that name."""
    plugins = Registry.discover().plugins
    for plugin in plugins:
        if plugin.name == name:
            if plugin.status != "ok":
                raise PluginError(f"The plugin '{name}' is {plugin.status}, {plugin.cause}; {plugin.mend}")
            return plugin.offers
    named = [offer for plugin in plugins for offer in plugin.offers if offer.partition(" ")[2] == name]
    if not named:
        raise PluginError(
            f"No plugin '{name}' is installed: there are {', '.join(plugin.name for plugin in plugins) or 'none'}"
        )
    return named


def _report(results: Sequence[Result]) -> None:
    for offer in dict.fromkeys(result.offer for result in results):
        console.data(offer)
        of_it = [result for result in results if result.offer == offer]
        for result in of_it:
            reason = f" ({result.why})" if result.outcome == "skipped" else ""
            console.data(f"  {_MARKS[result.outcome]}  {result.check}{reason}")
            if result.outcome == "failed":
                console.data(f"        {result.why}\n        {result.protects}")
        counts = {outcome: sum(result.outcome == outcome for result in of_it) for outcome in _MARKS}
        console.data(f"  {counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} do not apply")
