"""Calls of the hooks that describe a plugin's offers: a failing plugin is marked as broken, and left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pluggy

from imagegen_core.importing import in_words
from imagegen_core.plugins.guarding import Guard, PerPlugin, Steps, first, last
from imagegen_core.plugins.isolation import contained
from imagegen_core.plugins.plugin import Plugin


class Owners:
    """The plugin behind each offer."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Plugin, object]] = {}  # the offer is kept, so that its id stays its own

    def note(self, offers: Iterable[object], plugin: Plugin) -> None:
        """Attribute the offers that no other plugin made."""
        for offer in offers:
            self._known.setdefault(id(offer), (plugin, offer))

    def of(self, offer: object) -> Plugin:
        """Return the offer's plugin."""
        return self._known[id(offer)][0]


class OfferGuard(Guard):
    """Returns a list of offers: an empty one if the plugin fails, or is not ok."""

    def __init__(self, plugin: Plugin, hook: str, function: Callable[..., Any], owners: Owners) -> None:
        """Take the plugin's function."""
        super().__init__(plugin, hook, function)
        self._owners = owners

    def call(self, *arguments: Any, **options: Any) -> list[Any]:
        """Return the plugin's offers."""
        offers: list[Any] = []
        self._contained(lambda: offers.extend(self._function(*self._own(arguments), **options) or ()))
        self._owners.note(offers, self.plugin)
        return offers

    def wrap(self, *arguments: Any, **options: Any) -> Steps:
        """Let the plugin change the lists of all plugins inside its wrapper."""
        steps: list[Steps] = []

        def begin() -> None:
            steps.append(self._function(*self._own(arguments), **options))
            first(steps[0])

        has_begun = self._contained(begin)
        result = yield
        if not has_begun:
            return result
        changed: list[list[Any]] = []

        def end() -> None:
            answer = last(steps[0], result)
            answer = result.get_result() if isinstance(result, pluggy.Result) else answer
            changed.extend([*part] for part in answer or ())

        if not self._contained(end):
            return result
        for offers in changed:
            self._owners.note(offers, self.plugin)
        return changed

    def _own(self, arguments: Iterable[Any]) -> list[Any]:
        return [given.of(self.plugin) if isinstance(given, PerPlugin) else given for given in arguments]

    def _contained(self, function: Callable[[], object]) -> bool:
        """Run the plugin's code; return whether it succeeded."""
        if self.plugin.status != "ok":
            return False
        done: list[bool] = []
        with contained(self.plugin, f"in {self.hook}", self._diagnose):
            function()
            done.append(True)
        return bool(done)

    def _diagnose(self, error: BaseException) -> tuple[str, str]:
        return f"{self.hook} raised {in_words(error)}", self.plugin.update
