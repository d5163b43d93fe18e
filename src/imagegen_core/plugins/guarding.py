"""Plugins' hook implementations with their faults contained: pluggy calls these instead of the plugins' own."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

import pluggy

from imagegen_core.plugins.plugin import Plugin

Made = TypeVar("Made")
Steps = Generator[None, Any, Any]

MARK = "imagegen_impl"
"""The attribute that pluggy's marker sets: ``hookimpl`` of the project ``imagegen``."""


class PerPlugin(Generic[Made]):
    """An argument of a hook with a separate copy for each plugin."""

    def __init__(self, make: Callable[[], Made]) -> None:
        """Take the function that makes a copy."""
        self._make = make
        self._made: dict[int, tuple[Plugin, Made]] = {}

    def of(self, plugin: Plugin) -> Made:
        """Return the plugin's copy."""
        if id(plugin) not in self._made:
            self._made[id(plugin)] = (plugin, self._make())
        return self._made[id(plugin)][1]

    @property
    def copies(self) -> list[tuple[Plugin, Made]]:
        """The plugins with their copies, in the order of the calls."""
        return [*self._made.values()]


class Guard(ABC):
    """One implementation of a hook, by one plugin.

    Attributes:
        plugin: The plugin.
        hook: The hook's name.
    """

    def __init__(self, plugin: Plugin, hook: str, function: Callable[..., Any]) -> None:
        """Take the plugin's function."""
        self.plugin, self.hook, self._function = plugin, hook, function

    @abstractmethod
    def call(self, *arguments: Any, **options: Any) -> Any:
        """Call the plugin's function."""

    @abstractmethod
    def wrap(self, *arguments: Any, **options: Any) -> Steps:
        """Run the plugin's wrapper, a generator: https://pluggy.readthedocs.io/en/stable/#wrappers."""

    def implementation(self) -> Callable[..., Any]:
        """Return the function for pluggy, with the options of the plugin's ``@hookimpl``."""
        options = getattr(self._function, MARK)
        if not (options.get("wrapper") or options.get("hookwrapper")):

            @functools.wraps(self._function)
            def plain(*arguments: Any, **given: Any) -> Any:
                return self.call(*arguments, **given)

            return plain
        if not inspect.isgeneratorfunction(self._function):
            return self._function  # pluggy refuses it

        @functools.wraps(self._function)
        def wrapper(*arguments: Any, **given: Any) -> Steps:
            return (yield from self.wrap(*arguments, **given))

        return wrapper


def first(steps: Steps) -> None:
    """Run a wrapper up to its ``yield``.

    Raises:
        RuntimeError: It has none.
    """
    try:
        next(steps)
    except StopIteration:
        raise RuntimeError("its wrapper does not yield") from None


def last(steps: Steps, result: Any) -> Any:
    """Give a wrapper the inner result, and return the wrapper's result.

    Raises:
        RuntimeError: It yields a second time.
    """
    return _end(steps, lambda: steps.send(result))


def thrown(steps: Steps, error: BaseException) -> Any:
    """Raise the inner error in a wrapper, and return the wrapper's result; a wrapper may let the error through."""
    return _end(steps, lambda: steps.throw(error))


def _end(steps: Steps, resume: Callable[[], Any]) -> Any:
    try:
        resume()
    except StopIteration as end:
        return end.value
    steps.close()
    raise RuntimeError("its wrapper yields twice")


def marked(module: object) -> dict[str, Callable[..., Any]]:
    """Return a plugin's functions with ``@hookimpl``, by their names."""
    functions = {name: getattr(module, name) for name in dir(module) if not name.startswith("__")}
    return {name: value for name, value in functions.items() if inspect.isroutine(value) and hasattr(value, MARK)}


def hook_of(name: str, function: Callable[..., Any]) -> str:
    """Return the name of the hook that a function implements: its ``specname``, else its own."""
    return getattr(function, MARK).get("specname") or name


def unknown_hooks(manager: pluggy.PluginManager, registered: object) -> list[str]:
    """Return the hooks of a plugin that have no specification and are not ``optionalhook``."""
    callers = manager.get_hookcallers(registered) or []
    return [
        caller.name
        for caller in callers
        if not caller.has_spec()
        for implementation in caller.get_hookimpls()
        if implementation.plugin is registered and not implementation.optionalhook
    ]
