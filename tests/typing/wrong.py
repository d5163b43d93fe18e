"""Mistakes in plugin code that a type checker reports, at the lines marked with WRONG."""

from __future__ import annotations

from collections.abc import Sequence

import imagegen_core
from imagegen_core import Backend, ImageStore, Job, SteppedWorker, Upscaler, Worker

from .right import Plain, State, Stepped


class NoLatents:
    """A worker that lacks a method."""

    worker_id = 0

    def run_job(self, job: Job) -> tuple[bytes, int]:
        return b"", 0


class TextForBytes(Plain):
    """A worker that returns the wrong type."""

    def run_job(self, job: Job) -> tuple[str, int]:  # WRONG
        return "", 0


class OneAtATime(Stepped):
    """A worker that takes a single state instead of a sequence."""

    def step(self, states: State) -> None:  # WRONG
        states.steps_left -= 1


class Uncounted:
    """A state without its number of remaining steps."""

    failure: Exception | None = None


class Forgetful(Plain):
    """A worker whose states have the wrong type."""

    def begin(self, job: Job) -> Uncounted:
        return Uncounted()

    def group(self, state: Uncounted) -> str:
        return ""

    def step(self, states: Sequence[Uncounted]) -> None: ...


class Crooked:
    """An upscaler whose scale is not a number."""

    name = "crooked"
    scale = "2"


no_latents: Worker = NoLatents()  # WRONG
forgetful: SteppedWorker[State] = Forgetful()  # WRONG
not_an_upscaler: Upscaler = Crooked()  # WRONG
not_a_store: ImageStore = Plain()  # WRONG
unordered = Backend(name="mine", summary="", worker="a:B", default_size="64x64", priority="high")  # WRONG
unknown = imagegen_core.Nonsense  # WRONG
