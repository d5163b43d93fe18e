"""What an author gets wrong, one line each marked with WRONG, and a type checker does not take."""

from __future__ import annotations

from collections.abc import Sequence

import imagegen_core
from imagegen_core import Backend, ImageStore, Job, SteppedWorker, Upscaler, Worker

from .right import Plain, State, Stepped


class NoLatents:
    """Lacks a method."""

    worker_id = 0

    def run_job(self, job: Job) -> tuple[bytes, int]:
        return b"", 0


class TextForBytes(Plain):
    """Returns another type."""

    def run_job(self, job: Job) -> tuple[str, int]:  # WRONG
        return "", 0


class OneAtATime(Stepped):
    """Takes one state where a sequence comes."""

    def step(self, states: State) -> None:  # WRONG
        states.steps_left -= 1


class Uncounted:
    """A state that does not say what is left."""

    failure: Exception | None = None


class Forgetful(Plain):
    """Steps states of the wrong kind."""

    def begin(self, job: Job) -> Uncounted:
        return Uncounted()

    def group(self, state: Uncounted) -> str:
        return ""

    def step(self, states: Sequence[Uncounted]) -> None: ...


class Crooked:
    """Its scale is no number."""

    name = "crooked"
    scale = "2"


no_latents: Worker = NoLatents()  # WRONG
forgetful: SteppedWorker[State] = Forgetful()  # WRONG
not_an_upscaler: Upscaler = Crooked()  # WRONG
not_a_store: ImageStore = Plain()  # WRONG
misnamed = Backend(name="mine", summary="", worker="a:B", default_size="64x64", without=("sampler",))  # WRONG
unknown = imagegen_core.Nonsense  # WRONG
