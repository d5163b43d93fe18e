"""Run a plugin's code in isolation from its errors, exits, endless loops and output."""

from __future__ import annotations

import contextlib
import contextvars
import io
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import FrameType
from typing import TypeVar

from imagegen_core.plugins.plugin import Plugin

LIMIT = 10.0
"""The time limit of a plugin's import or of one of its hooks, in seconds."""
_QUOTED = 60  # characters
_AGAIN = 1.0  # seconds until an interruption is repeated, in case the plugin caught it

_log = logging.getLogger(__name__)

Result = TypeVar("Result")


class LimitReachedError(BaseException):
    """The plugin's time is up. Not an Exception, so that a plugin's ``except Exception`` does not catch it."""


@contextlib.contextmanager
def contained(
    plugin: Plugin, doing: str, diagnose: Callable[[BaseException], tuple[str, str]], limit: float = LIMIT
) -> Iterator[None]:
    """Contain the exceptions, the output and the hangs of a plugin's code.

    An error marks the plugin as broken, and the code after the block continues. Output does not reach stdout, which is
    for pictures and JSON, but becomes a remark. Only the user's Ctrl-C is raised.

    Args:
        plugin: The plugin.
        doing: The occasion, such as ``when it is imported``.
        diagnose: Returns cause and mend of an error.
        limit: Seconds until the block is interrupted, if `limits_apply`.
    """
    # On a buffer of bytes, like the real stdout.
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="replace", write_through=True)
    try:
        with contextlib.redirect_stdout(printed), _time_limit(limit):
            yield
    except KeyboardInterrupt:
        raise
    except LimitReachedError:
        plugin.broke(f"it takes more than {limit:g} s {doing}", plugin.disable)
        _log.warning(
            "The plugin %s takes more than %g s %s and is disabled: %s", plugin.name, limit, doing, plugin.disable
        )
    except BaseException as error:  # noqa: BLE001 - SystemExit too: a stranger's code ends nothing but itself
        plugin.broke(*diagnose(error))
    if not printed.closed and (text := _held(printed)):
        plugin.remark(
            f"it prints {doing} ({text}), and stdout is for pictures and data: "
            f"ask the authors of {plugin.distribution} to use logging"
        )


def within(limit: float, function: Callable[[], Result]) -> Result:
    """Call a function on a thread of its own, and wait for its result; the function's errors are raised here.

    Args:
        limit: Seconds to wait. After that the thread is left to itself.
        function: The function.

    Raises:
        LimitReachedError: The limit has passed.
    """
    outcome: Future[Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:  # noqa: BLE001 - it is raised by the caller
            outcome.set_exception(error)

    threading.Thread(target=contextvars.copy_context().run, args=(run,), name="imagegen-plugin", daemon=True).start()
    try:
        return outcome.result(limit)
    except TimeoutError:
        if outcome.done():  # the function's own
            raise
        raise LimitReachedError from None


def limits_apply() -> bool:
    """Return whether a hanging plugin can be interrupted: on the main thread of a POSIX process."""
    return (
        hasattr(signal, "setitimer")
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGALRM) is not None  # a handler set outside Python could not be restored
    )


def quoted(text: bytes) -> str:
    """Quote the beginning of the output; return an empty text if it is blank."""
    words = text.decode(errors="replace").strip()
    return repr(f"{words[:_QUOTED]}..." if len(words) > _QUOTED else words) if words else ""


def _held(printed: io.TextIOWrapper) -> str:
    held = printed.buffer
    return quoted(held.getvalue()) if isinstance(held, io.BytesIO) else ""


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise `LimitReachedError` in the block after `seconds`; restore the earlier alarm afterwards."""
    if not limits_apply():
        yield
        return
    limited = True

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if limited:  # not while the earlier alarm is restored
            raise LimitReachedError

    delay, interval = signal.getitimer(signal.ITIMER_REAL)
    started = time.monotonic()
    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
        yield
    finally:
        limited = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if delay:
            left = delay - (time.monotonic() - started)
            signal.setitimer(signal.ITIMER_REAL, max(left, 0.001), interval)  # 0 would turn it off
