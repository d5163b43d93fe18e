"""Running a plugin's code so that whatever it does stays with it: errors, exits, endless loops, printing."""

from __future__ import annotations

import contextlib
import io
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from imagegen_core.plugins.plugin import Plugin

LIMIT = 10.0
"""Seconds that one plugin's import, or one of its hooks, may take."""
_QUOTED = 60  # characters
_AGAIN = 1.0  # seconds after which an interruption that the plugin swallowed is repeated

_log = logging.getLogger(__name__)


class LimitReachedError(BaseException):
    """The plugin's time is up; no Exception, so that a plugin that catches those does not catch it."""


@contextlib.contextmanager
def contained(
    plugin: Plugin, doing: str, diagnose: Callable[[BaseException], tuple[str, str]], limit: float = LIMIT
) -> Iterator[None]:
    """Keep what a block of a plugin's code raises, prints or hangs on with that plugin.

    An error marks the plugin as broken, and the code after the block goes on. What it prints does not reach stdout,
    where pictures and JSON go, and becomes a remark. Only the user's Ctrl-C comes through.

    Args:
        plugin: Whose code it is.
        doing: When it runs, such as ``when it is imported``.
        diagnose: Cause and mend of an error.
        limit: Seconds after which the block is interrupted, where `limits_apply`.
    """
    # With a buffer of bytes beneath, as the real one has.
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="replace", write_through=True)
    try:
        with contextlib.redirect_stdout(printed), _time_limit(limit):
            yield
    except KeyboardInterrupt:
        raise
    except LimitReachedError:
        plugin.broke(f"it takes more than {limit:g} s {doing}", plugin.disable)
        _log.warning(
            "The plugin %s takes more than %g s %s and is left out: %s", plugin.name, limit, doing, plugin.disable
        )
    except BaseException as error:  # noqa: BLE001 - SystemExit too: a stranger's code ends nothing but itself
        plugin.broke(*diagnose(error))
    if not printed.closed and (text := _held(printed)):
        plugin.remark(
            f"it prints {doing} ({text}), and stdout is for pictures and data: "
            f"ask the authors of {plugin.distribution} to use logging"
        )


def limits_apply() -> bool:
    """Whether a plugin that hangs can be interrupted: on the main thread of a POSIX process."""
    return (
        hasattr(signal, "setitimer")
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGALRM) is not None  # set from outside Python, it could not be put back
    )


def quoted(text: bytes) -> str:
    """The beginning of what was printed, in quotes; nothing where it is blank."""
    words = text.decode(errors="replace").strip()
    return repr(f"{words[:_QUOTED]}..." if len(words) > _QUOTED else words) if words else ""


def _held(printed: io.TextIOWrapper) -> str:
    held = printed.buffer
    return quoted(held.getvalue()) if isinstance(held, io.BytesIO) else ""


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise `LimitReachedError` in the block after `seconds`; the alarm that was set before goes on afterwards."""
    if not limits_apply():
        yield
        return
    handler = signal.signal(signal.SIGALRM, _interrupt)
    delay, interval = signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
    started = time.monotonic()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if delay:
            left = delay - (time.monotonic() - started)
            signal.setitimer(signal.ITIMER_REAL, max(left, 0.001), interval)  # 0 would turn it off


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise LimitReachedError
