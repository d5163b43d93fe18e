"""Measure several processes in turn: each works while the others wait.

Each side runs in its own process, because a worker changes its process's memory allocation. Also, a second computing
thread slows the first thread down.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

Work = Callable[[int], Any]
"""A function of the work's number; it may return its own seconds instead of its whole time."""

Side = tuple[Callable[..., Callable[..., Any]], tuple[Any, ...]]
"""A function to make the work in its process, and the function's arguments."""


class SideError(RuntimeError):
    """A side failed in its process; the message is its error."""


class SideProcess:
    """A process that makes its work once, and does it for each call, while its caller waits."""

    def __init__(self, side: Side, context: BaseContext | None = None) -> None:
        """Start the process; its first answer says that the work is made."""
        context = context or multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, *side), daemon=True)  # type: ignore[attr-defined]
        self._process.start()
        theirs.close()  # otherwise, `recv` would not notice the end of a failed child

    def wait(self, limit: float | None = None) -> Any:
        """Return the next answer.

        Args:
            limit: The maximum number of seconds; a process that takes longer is ended.

        Raises:
            SideError: The work failed, ended its process, or took too long.
        """
        if not self._connection.poll(limit):
            self.close()
            raise SideError(f"it took longer than {limit:.0f} s")
        try:
            succeeded, answer = self._connection.recv()
        except EOFError as error:
            self.close()
            raise SideError(f"its process ended with code {self._process.exitcode}") from error
        if not succeeded:
            self.close()
            raise SideError(answer)
        return answer

    def ask(self, *arguments: Any, limit: float | None = None) -> Any:
        """Do the work with these arguments, and return its result; see `wait`."""
        self._connection.send(arguments)
        return self.wait(limit)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def take_turns(sides: dict[str, Side], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each side, round by round."""
    processes = {}
    for name, side in sides.items():
        processes[name] = process = SideProcess((_timed, side))
        process.wait()
        for warming_up in range(2):
            process.ask(warming_up)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, process in processes.items():
            seconds[name].append(process.ask(number + 2))
    for process in processes.values():
        process.close()
    return seconds


def _timed(make: Callable[..., Work], arguments: tuple[Any, ...]) -> Callable[[int], float]:
    """Make work, and return it as a function that returns its seconds."""
    work = make(*arguments)

    def timed(number: int) -> float:
        started = time.perf_counter()
        own = work(number)
        return own if isinstance(own, float) else time.perf_counter() - started

    return timed


def _serve(connection: Connection, make: Callable[..., Callable[..., Any]], arguments: tuple[Any, ...]) -> None:
    """In a child process: make the work, do it for each message, and send back the results or the first error."""
    from imagegen_core.diffusion.torchvision import make_torchvision_importable

    try:
        make_torchvision_importable()
        work = make(*arguments)
        connection.send((True, None))
        while True:
            connection.send((True, work(*connection.recv())))
    except EOFError:
        return  # the parent ended
    except Exception as error:  # noqa: BLE001 - the parent reports it
        connection.send((False, f"{type(error).__name__}: {error}"))
