"""Measure several processes in turn: each works while the others wait.

Each side runs in its own process, because a worker changes its process's memory allocation. Also, a second computing
thread slows the first thread down.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

Work = Callable[[int], Any]
"""A function of the work's number; it may return its own seconds instead of its whole time."""

Side = tuple[Callable[..., Work], tuple[Any, ...]]
"""A function to make the work in its process, and the function's arguments."""


def take_turns(sides: dict[str, Side], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each side, round by round."""
    context = multiprocessing.get_context("spawn")
    connections: dict[str, Connection] = {}
    for name, (make, arguments) in sides.items():
        ours, theirs = context.Pipe()
        context.Process(target=_serve, args=(theirs, make, arguments), daemon=True).start()
        theirs.close()  # otherwise, `recv` would not notice the end of a failed child
        ours.recv()
        connections[name] = ours
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, connection in connections.items():
            connection.send(number + 2)
            seconds[name].append(connection.recv())
    for connection in connections.values():
        connection.send(None)
    return seconds


def _serve(connection: Connection, make: Callable[..., Work], arguments: tuple[Any, ...]) -> None:
    """In a child process: do the work for each number received, and send back its seconds."""
    work = make(*arguments)
    work(0)
    work(1)
    connection.send(0.0)
    while (number := connection.recv()) is not None:
        started = time.perf_counter()
        own = work(number)
        connection.send(own if isinstance(own, float) else time.perf_counter() - started)
