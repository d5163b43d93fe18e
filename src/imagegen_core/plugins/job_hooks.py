"""The plugins' hooks around jobs: they change requests and pictures, and follow jobs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pluggy

from imagegen_core.errors import ImagegenError, PictureError, PluginError
from imagegen_core.images.png_text import png_text, with_png_text
from imagegen_core.images.recipe import with_processor
from imagegen_core.importing import in_words
from imagegen_core.picture import Picture
from imagegen_core.plugins.event_queue import EventQueue
from imagegen_core.plugins.guarding import Guard, Steps, first, last, thrown
from imagegen_core.plugins.isolation import LimitReachedError, within
from imagegen_core.plugins.plugin import Plugin
from imagegen_core.request import GenerateRequest, check_request

if TYPE_CHECKING:
    from imagegen_core.job import Event, Job
    from imagegen_core.parameter import Parameter
    from imagegen_core.settings import Settings

_CHAINS = ("imagegen_request", "imagegen_picture")

_log = logging.getLogger(__name__)

LIMIT = 60.0
"""The time limit of one plugin's work on one request or picture, in seconds."""
NOTICE_LIMIT = 10.0
"""The time limit of one plugin at one event, or at the start or the end, in seconds."""


def guard_of(plugin: Plugin, hook: str, function: Callable[..., Any]) -> Guard:
    """Return the guard of an implementation of one of `hookspecs.JOB_HOOKS`."""
    return (ChainGuard if hook in _CHAINS else NoticeGuard)(plugin, hook, function)


class JobHooks:
    """Calls the plugins' hooks around jobs.

    A plugin that fails in a request or a picture fails this job alone, with an error that names the plugin. Other
    failures are logged.
    """

    def __init__(self, manager: pluggy.PluginManager, parameters: Iterable[Parameter] = ()) -> None:
        """Take the manager with the registered plugins, and their parameters of requests."""
        self._hooks = manager.hook
        self._defaults = {parameter.name: parameter.default for parameter in parameters}
        self._events: EventQueue | None = None

    @property
    def changes_requests(self) -> bool:
        """Whether a plugin implements ``imagegen_request``."""
        return bool(self._hooks.imagegen_request.get_hookimpls())

    @property
    def changes_pictures(self) -> bool:
        """Whether a plugin implements ``imagegen_picture``."""
        return bool(self._hooks.imagegen_picture.get_hookimpls())

    def request(self, request: Any) -> Any:
        """Pass a complete request through the plugins; it gets its seed first, so that plugins can use it.

        Raises:
            InvalidRequestError: A plugin refuses it, or made it invalid.
            PluginError: A plugin failed.
        """
        if not self.changes_requests or not isinstance(request, GenerateRequest):
            return request
        seeded = request.model_copy(update={"seed": check_request(request).seed})
        cell = _Cell(self._with_defaults(seeded))
        self._hooks.imagegen_request(request=cell)
        check_request(cell.value)
        return cell.value

    def picture(self, picture: Picture, request: GenerateRequest) -> Picture:
        """Pass a picture through the plugins; the recipe names each plugin that changes it.

        Args:
            picture: The worker's picture.
            request: The request that the worker drew.

        Raises:
            InvalidRequestError: A plugin refuses the picture.
            PluginError: A plugin failed.
        """
        if not self.changes_pictures:
            return picture
        cell = _Cell(picture)
        self._hooks.imagegen_picture(picture=cell, request=self._with_defaults(request))
        changed: Picture = cell.value
        return changed

    def tell(self, job: Job, event: Event) -> None:
        """Tell the plugins of an event, on another thread; the events of a job keep their order."""
        if (events := self._events) is not None:
            events.put(job, event)

    @contextlib.contextmanager
    def running(self, settings: Settings) -> Iterator[None]:
        """Call ``imagegen_startup`` now, and ``imagegen_shutdown`` at the end, after the last event was told."""
        self.start(settings)
        try:
            yield
        finally:
            self.stop()

    def start(self, settings: Settings) -> None:
        """Call ``imagegen_startup``, and begin to tell of events."""
        self._hooks.imagegen_startup(settings=settings)
        if self._hooks.imagegen_job_event.get_hookimpls():
            self._events = EventQueue(lambda job, event: self._hooks.imagegen_job_event(job=job, event=event))

    def stop(self) -> None:
        """Tell of the waiting events, then call ``imagegen_shutdown``."""
        events, self._events = self._events, None
        if events is not None:
            events.close()
        self._hooks.imagegen_shutdown()

    def _with_defaults(self, request: GenerateRequest) -> GenerateRequest:
        """Return a request with the value or the default of every declared parameter."""
        if not isinstance(request, GenerateRequest):  # any object with its attributes
            return request
        return request.with_parameters(request.parameters.given, self._defaults)


class _Cell:
    """The value that passes from one plugin to the next."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def take(self, answer: object, given: object, guard: ChainGuard) -> None:
        """Take a plugin's answer to `given`; None keeps the value.

        Raises:
            PluginError: The answer is of another type, or its PNG is damaged.
        """
        if answer is None:
            return
        if type(answer) is not type(self.value):
            kind = type(self.value).__name__
            raise guard.error(f"returned {type(answer).__name__}, where a changed copy of the {kind} or None belongs")
        if isinstance(answer, Picture) and isinstance(given, Picture):
            if answer.png == given.png:
                return
            try:
                answer = _with_recipe(answer, given)
            except PictureError as error:
                raise guard.error(f"returned a damaged picture ({error})") from error
        self.value = answer


class ChainGuard(Guard):
    """An implementation of ``imagegen_request`` or ``imagegen_picture``; each gets the result of the one before."""

    def call(self, *arguments: Any, **options: Any) -> None:
        """Pass the value through the plugin."""
        cell, given, own = self._own(arguments)
        cell.take(self._run(lambda: self._function(*own, **options)), given, self)

    def wrap(self, *arguments: Any, **options: Any) -> Steps:
        """Run the plugin around the plugins inside its wrapper; its ``yield`` gives their value."""
        cell, given, own = self._own(arguments)
        steps: Steps = self._run(lambda: self._function(*own, **options))
        self._run(lambda: first(steps))
        try:
            outcome = yield
        except Exception as error:  # noqa: BLE001 - the plugin's wrapper decides about it
            cell.take(self._run(partial(thrown, steps, error)), given, self)
            return
        given = self._given(cell.value)
        if isinstance(outcome, pluggy.Result):
            self._end_old(cell, given, steps, outcome)
        else:
            cell.take(self._run(lambda: last(steps, given)), given, self)

    def error(self, fault: str) -> PluginError:
        """Return the error of a job that this plugin fails."""
        plugin = self.plugin
        return PluginError(
            f"The plugin {plugin.name} ({plugin.distribution} {plugin.version}) {fault} in {self.hook}: "
            f"{plugin.disable}"
        )

    def _end_old(self, cell: _Cell, given: Any, steps: Steps, outcome: pluggy.Result[Any]) -> None:
        """End a wrapper of the old style, which gets pluggy's ``Result`` and changes it."""
        own: pluggy.Result[Any] = pluggy.Result(given, outcome.exception)
        try:
            self._run(lambda: last(steps, own))
            cell.take(self._run(own.get_result), given, self)
        except ImagegenError as error:
            outcome.force_exception(error)
        else:
            outcome.force_result([])

    def _own(self, arguments: tuple[Any, ...]) -> tuple[_Cell, Any, list[Any]]:
        """Return the cell, its value for this plugin, and the plugin's arguments.

        An implementation may leave the value out of its arguments, and then changes nothing.
        """
        cell = next((value for value in arguments if isinstance(value, _Cell)), _Cell(None))
        given = self._given(cell.value)
        return cell, given, [given if value is cell else value for value in arguments]

    def _given(self, value: Any) -> Any:
        """Return the value for this plugin: a picture's recipe already names it, in case it changes the picture."""
        if not isinstance(value, Picture):
            return value
        text = with_processor(png_text(value.png), f"{self.plugin.distribution} {self.plugin.version}")
        return replace(value, png=with_png_text(value.png, text)) if text else value

    def _run(self, function: Callable[[], Any]) -> Any:
        """Run the plugin's code.

        Raises:
            ImagegenError: The plugin raised it.
            PluginError: The plugin raised another error, or takes too long.
        """
        try:
            return within(LIMIT, function)
        except (ImagegenError, KeyboardInterrupt):
            raise
        except LimitReachedError:
            raise self.error(f"takes more than {LIMIT:g} s") from None
        except BaseException as error:
            _log.info("The plugin %s failed in %s", self.plugin.name, self.hook, exc_info=error)
            raise self.error(f"raised {in_words(error)}") from error


class NoticeGuard(Guard):
    """An implementation of another hook around jobs; its failures are logged."""

    def __init__(self, plugin: Plugin, hook: str, function: Callable[..., Any]) -> None:
        """Take the plugin's function."""
        super().__init__(plugin, hook, function)
        self._hangs = False

    def call(self, *arguments: Any, **options: Any) -> None:
        """Call the plugin's function."""
        self._run(lambda: self._function(*arguments, **options))

    def wrap(self, *arguments: Any, **options: Any) -> Steps:
        """Run the plugin around the plugins inside its wrapper."""
        steps: list[Steps] = []

        def begin() -> None:
            steps.append(self._function(*arguments, **options))
            first(steps[0])

        has_begun = self._run(begin)
        result = yield
        if has_begun:
            self._run(lambda: last(steps[0], result))
        return result

    def _run(self, function: Callable[[], Any]) -> bool:
        """Run the plugin's code, unless it hung before; return whether it succeeded."""
        plugin = self.plugin
        if self._hangs:
            return False
        try:
            within(NOTICE_LIMIT, function)
        except KeyboardInterrupt:
            raise
        except LimitReachedError:
            self._hangs = True
            _log.warning(
                "The plugin %s takes more than %g s in %s, which is not called again: %s",
                plugin.name,
                NOTICE_LIMIT,
                self.hook,
                plugin.disable,
            )
        except BaseException as error:  # noqa: BLE001 - SystemExit, too
            _log.warning("The plugin %s fails in %s (%s): %s", plugin.name, self.hook, in_words(error), plugin.update)
            _log.info("Its error", exc_info=error)
        else:
            return True
        return False


def _with_recipe(answer: Picture, given: Picture) -> Picture:
    """Return a plugin's picture with the text that the plugin dropped; other text stays as the plugin wrote it.

    Raises:
        PictureError: The plugin's PNG is damaged.
    """
    kept = png_text(answer.png)
    dropped = {keyword: value for keyword, value in png_text(given.png).items() if keyword not in kept}
    return replace(answer, png=with_png_text(answer.png, dropped)) if dropped else answer
