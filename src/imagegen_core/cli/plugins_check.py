"""``imagegen plugins check``: run the conformance kit on an installed plugin."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from imagegen_core.cli import console, streams
from imagegen_core.errors import InvalidRequestError, PluginError
from imagegen_core.importing import load_named
from imagegen_core.plugins.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imagegen_core.cli.kit import Result

_MARKS = {"passed": "ok  ", "failed": "FAIL", "skipped": "skip"}


def check(
    name: Annotated[str, typer.Argument(help="A plugin, or one of its offers; see `imagegen plugins list`.")],
    quick: Annotated[bool, typer.Option("--quick", help="Run only the checks that draw few pictures.")] = False,
    expression: Annotated[
        str | None,
        typer.Option("-k", metavar="EXPRESSION", help="Run only the checks with these words, as by pytest's -k."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, at the end.")] = False,
) -> None:
    """Check that a plugin keeps the contract; explain each failed check.

    Backends are checked with the configured checkpoint. Each result appears as soon as its check has ended.
    """
    run_checks = load_named("The conformance kit", "imagegen_core.cli.kit:run_checks", extra="testing")
    from imagegen_core.cli.kit import KITS

    plugin, offers = _named(name)
    offers = [offer for offer in offers if offer.partition(" ")[0] in KITS] or [f"plugin {plugin}"]
    results: list[Result] = []

    def on_result(result: Result) -> None:
        results.append(result)
        if not as_json:
            _print(result)

    for offer in offers:
        if not as_json:
            _say_now(offer)
        left_out = run_checks(offer, on_result, quick=quick, expression=expression)
        if not as_json:
            _say_now(f"  {_summary([result for result in results if result.offer == offer], left_out)}")
    if not results:
        raise InvalidRequestError(
            f"No check of '{name}' matches: leave out -k or --quick to see the names of all checks"
        )
    if as_json:
        console.json_data([asdict(result) for result in results])
    raise typer.Exit(1 if any(result.outcome == "failed" for result in results) else 0)


def _named(name: str) -> tuple[str, Sequence[str]]:
    """Return a plugin's name and its offers, or the offers with that name and the name of their plugin."""
    plugins = Registry.discover().plugins
    for plugin in plugins:
        if plugin.name == name:
            if plugin.status != "ok":
                raise PluginError(f"The plugin '{name}' is {plugin.status}, {plugin.cause}; {plugin.mend}")
            return plugin.name, plugin.offers
    named = [(plugin.name, offer) for plugin in plugins for offer in plugin.offers if offer.partition(" ")[2] == name]
    if not named:
        raise PluginError(
            f"No plugin '{name}' is installed: there are {', '.join(plugin.name for plugin in plugins) or 'none'}"
        )
    return named[0][0], [offer for _, offer in named]


def _print(result: Result) -> None:
    reason = f" ({result.why})" if result.outcome == "skipped" else ""
    _say_now(f"  {_MARKS[result.outcome]}  {result.check}{reason}")
    if result.outcome == "failed":
        _say_now(f"        {result.why}\n        {result.protects}")


def _say_now(line: str) -> None:
    """Write a line to stdout at once, also into a pipe: the next check may take minutes."""
    console.data(line)
    streams.flush()


def _summary(results: Sequence[Result], left_out: int) -> str:
    counts = Counter(result.outcome for result in results)
    summary = f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} do not apply"
    return f"{summary}, {left_out} not selected" if left_out else summary
