"""Processes that are measured in turn, each doing its work while the others wait.

Each side runs in a process of its own, since a worker changes how its process allocates memory, and a second thread
that computes slows the first one down.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

Work = Callable[[int], Any]
"""One piece of work, given its number; it may return its own seconds, if those are not its whole time."""

Side = tuple[Callable[..., Work], tuple[Any, ...]]
"""What makes the work, in its process, and the arguments."""


def take_turns(sides: dict[str, Side], rounds: int) -> dict[str, list[float]]:
    """Seconds that each side takes, round by round."""
    context = multiprocessing.get_context("spawn")
    lines: dict[str, Connection] = {}
    for name, (make, arguments) in sides.items():
        ours, theirs = context.Pipe()
        context.Process(target=_serve, args=(theirs, make, arguments), daemon=True).start()
        theirs.close()  # or the end of a child that fails would go unnoticed
        ours.recv()
        lines[name] = ours
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, line in lines.items():
            line.send(number + 2)
            seconds[name].append(line.recv())
    for line in lines.values():
        line.send(None)
    return seconds


def _serve(connection: Connection, make: Callable[..., Work], arguments: tuple[Any, ...]) -> None:
    """In a child: do each piece of work that comes, and answer with the seconds it took."""
    work = make(*arguments)
    work(0)
    work(1)
    connection.send(0.0)
    while (number := connection.recv()) is not None:
        started = time.perf_counter()
        own = work(number)
        connection.send(own if isinstance(own, float) else time.perf_counter() - started)
