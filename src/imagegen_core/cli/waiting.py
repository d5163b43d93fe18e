"""Progress display on a terminal."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imagegen_core.job import StepDone
    from imagegen_core.settings import Settings
    from imagegen_core.worker import Worker


def load(backend: str | None = None, model: str | None = None, settings: Settings | None = None) -> Worker:
    """Load like `load_worker`, with a spinner, and warm up with a bar."""
    from imagegen_core.shortcuts import load_worker
    from imagegen_core.worker import WarmsUp

    with status("Loading the model"):
        worker = load_worker(backend, model, settings)
    if isinstance(worker, WarmsUp):
        with step_bar("Warming up", steps=1) as on_step:
            worker.warm_up(on_step)
    return worker


@contextmanager
def status(title: str) -> Iterator[None]:
    """Show a spinner on stderr, if it is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(title):
        yield


@contextmanager
def step_bar(title: str, steps: int) -> Iterator[Callable[[StepDone], None] | None]:
    """Show a progress bar on stderr, if it is a terminal; yield a function to update it."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=steps)
        yield lambda done: progress.update(task, completed=done.step, total=done.steps)
