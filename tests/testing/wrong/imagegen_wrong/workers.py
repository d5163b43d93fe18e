"""Variants of the toy worker, each with a typical fault of plugin authors."""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from imagegen_toy.worker import Denoising, ToyWorker

from imagegen_core import (
    CallbackWorker,
    GenerateRequest,
    InvalidRequestError,
    Job,
    JobStoppedError,
    NumericsPlan,
    Picture,
    Progress,
    Recipe,
    ResolvedRequest,
    Settings,
    encode_png,
    to_text,
)


class Wrong(ToyWorker):
    """The toy worker with a native size of 64x64."""

    def __init__(self, worker_id: int = 0, settings: Settings | None = None) -> None:
        super().__init__(worker_id, settings)
        self.native_size = "64x64"
        self._writes_recipe = False  # it would name the toy

    def begin(self, job: Job) -> Denoising:
        request = job.req
        fields = getattr(request, "model_fields_set", {"size"})
        if "size" not in fields:
            job = replace(job, req=request.model_copy(update={"size": self.native_size}))
            job.req.model_fields_set.add("size")
        return super().begin(job)


class AnotherGenerator(Wrong):
    """Add noise from the generator of the whole process."""

    def begin(self, job: Job) -> Denoising:
        state = super().begin(job)
        state.latents = state.latents + np.random.standard_normal(state.latents.shape).astype(np.float32)
        return state


class AnotherPass(Wrong):
    """Draw again for the latents, with another seed."""

    def run_job_with_latents(self, job: Job) -> tuple[bytes, int, bytes]:
        png, seed = self.run_job(job)
        again = replace(job, req=job.req.model_copy(update={"seed": None}))
        return png, seed, super().run_job_with_latents(again)[2]


class AnyDevice(Wrong):
    """Draw on the CPU, and ignore the requested device."""

    def __init__(self, worker_id: int = 0, settings: Settings | None = None) -> None:
        super().__init__(worker_id, Settings())


class BeginsAlike(Wrong):
    """Forget the request between two parts of the beginning."""

    def begin_in_parts(self, job: Job) -> Generator[None, None, Denoising]:
        self.job = job
        yield
        return self.begin(self.job)


class BlindToPrompts(Wrong):
    """Draw the same picture for every prompt."""

    def begin(self, job: Job) -> Denoising:
        state = super().begin(job)
        state.aim = np.zeros_like(state.aim) + np.float32(state.request.guidance_scale)
        state.aim += np.float32(len(state.request.negative_prompt or ""))
        return state


class BreaksOnErrors(Wrong):
    """Stay busy for ever after a refused request."""

    busy = 0

    def begin(self, job: Job) -> Denoising:
        noise = self.busy
        self.busy += 1
        state = super().begin(job)
        self.busy -= 1
        state.latents = state.latents + noise
        return state


class ChangesItsPlan(Wrong):
    """Choose the rows of a pass when an engine tests the worker."""

    numerics = NumericsPlan("cpu", "fp32")

    def trial(self, states: Sequence[Denoising]) -> bool:
        self.numerics = replace(self.numerics, rows=4)
        return super().trial(states)


class CutsSeeds(Wrong):
    """Keep 31 bits of a seed."""

    def begin(self, job: Job) -> Denoising:
        seed = getattr(job.req, "seed", None)
        if isinstance(seed, int) and seed >= 2**31 and seed < 2**63:
            job = replace(job, req=job.req.model_copy(update={"seed": seed % 2**31}))
        return super().begin(job)


class DrawsInPreviews(Wrong):
    """Show a preview, and change the latents by it."""

    def preview(self, state: Denoising) -> bytes:
        state.latents = np.clip(state.latents, -0.1, 0.1)
        return encode_png(np.zeros((8, 8, 3), np.uint8))


class DrawsOtherwiseAfterTrials(Wrong):
    """Compute in another way once an engine has tested the worker."""

    scale = np.float32(1)

    def begin(self, job: Job) -> Denoising:
        state = super().begin(job)
        state.latents = state.latents * self.scale
        return state

    def trial(self, states: Sequence[Denoising]) -> bool:
        self.scale = np.float32(1.01)
        return super().trial(states)


class ForgetsGuidance(Wrong):
    """State no guidance in the recipe."""

    def _text(self, request: ResolvedRequest) -> dict[str, str]:
        return to_text(Recipe.of(replace(request, guidance_scale=1.0), backend="ForgetsGuidance"))


class ForgetsSettings(Wrong):
    """Require an argument of its own."""

    def __init__(self, settings: Settings, *, quality: str) -> None:
        super().__init__(0, settings)


class GroupsAll(Wrong):
    """Group pictures of all sizes together."""

    def group(self, state: Denoising) -> str:
        return "all"


class GuessesASampler(Wrong):
    """Write a sampler into the recipe, which the backend then refuses."""

    def _text(self, request: ResolvedRequest) -> dict[str, str]:
        return to_text(Recipe.of(request, scheduler="Euler", backend="GuessesASampler"))


class HoldsOn(Wrong):
    """Keep each worker for ever in a list."""

    made: list[Any] = []  # noqa: RUF012 - this is the fault

    def __init__(self, worker_id: int = 0, settings: Settings | None = None) -> None:
        super().__init__(worker_id, settings)
        self.made.append(self)


class HurriesOn(Wrong):
    """Take all steps at once."""

    def step(self, states: Sequence[Denoising]) -> None:
        while any(state.steps_left for state in states):
            super().step([state for state in states if state.steps_left])


class IgnoresNegativePrompts(Wrong):
    """Accept a negative prompt, but ignore it."""

    def begin(self, job: Job) -> Denoising:
        if getattr(job.req, "negative_prompt", None):
            job = replace(job, req=job.req.model_copy(update={"negative_prompt": None}))
        return super().begin(job)


class IgnoresStops(CallbackWorker):
    """Draw on after the callback's error."""

    def __init__(self, worker_id: int = 0, settings: Settings | None = None) -> None:
        super().__init__(worker_id)
        self.native_size = "64x64"
        self._toy = Wrong(worker_id, settings)

    def draw(self, request: GenerateRequest, progress: Progress) -> Picture:
        job = Job(req=request)
        state = self._toy.begin(job)
        steps = state.steps_left
        while state.steps_left:
            self._toy.step([state])
            with suppress(JobStoppedError):
                progress.step_done(state.steps_done, steps)
        return self._toy.finish(state)()


class IgnoresStyles(Wrong):
    """Draw without an unknown style, instead of refusing it."""

    def begin(self, job: Job) -> Denoising:
        if getattr(job.req, "style_lora", None) is not None:
            job = replace(job, req=job.req.model_copy(update={"style_lora": None}))
        return super().begin(job)


class KeepsLatents(Wrong):
    """Keep the latents of all pictures."""

    def __init__(self, worker_id: int = 0, settings: Settings | None = None) -> None:
        super().__init__(worker_id, settings)
        self.drawn: list[bytes] = []

    def finish(self, state: Denoising) -> Callable[[], Picture]:
        self.drawn.append(state.latents.tobytes() * 2)
        return super().finish(state)


class LeavesFiles(Wrong):
    """Open a file for each job, and leave it open."""

    def begin(self, job: Job) -> Denoising:
        os.open(os.devnull, os.O_RDONLY)
        return super().begin(job)


class LeavesThreads(Wrong):
    """Start a thread for each job, which waits for ever."""

    def begin(self, job: Job) -> Denoising:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        return super().begin(job)


class Mixes(Wrong):
    """Normalise over the batch, but claim that batches change nothing."""

    def step(self, states: Sequence[Denoising]) -> None:
        mean = np.mean([state.latents.mean() for state in states])
        super().step(states)
        for state in states:
            state.latents = state.latents + np.float32(mean)

    def trial(self, states: Sequence[Denoising]) -> bool:
        for state in states:
            self.step([state])
        return True


class MovesInTrials(Wrong):
    """Take a different step in a trial."""

    def trial(self, states: Sequence[Denoising]) -> bool:
        same = super().trial(states)
        for state in states:
            state.latents = state.latents * np.float32(1.01)
        return same


class NativeAlways(Wrong):
    """Draw the native size, and ignore the requested size."""

    def begin(self, job: Job) -> Denoising:
        super().begin(job)
        if hasattr(job.req, "model_copy"):
            job = replace(job, req=job.req.model_copy(update={"size": self.native_size}))
        return super().begin(job)


class NeedsNewFields(Wrong):
    """Accept only requests with the newest fields."""

    def begin(self, job: Job) -> Denoising:
        assert job.req.clip_skip >= 0
        assert job.req.style_lora.level >= 0
        return super().begin(job)


class NotOnOtherThreads(Wrong):
    """Keep necessary data local to the thread that makes the worker."""

    def __init__(self, worker_id: int = 0, settings: Settings | None = None) -> None:
        super().__init__(worker_id, settings)
        self._local = threading.local()
        self._local.scale = np.float32(1)

    def begin(self, job: Job) -> Denoising:
        state = super().begin(job)
        state.latents = state.latents * getattr(self._local, "scale", np.float32(0.5))
        return state


class PlainErrors(Wrong):
    """Raise an arbitrary error for a wrong size, scale or seed."""

    def begin(self, job: Job) -> Denoising:
        try:
            return super().begin(job)
        except InvalidRequestError as error:
            if error.field not in ("size", "guidance_scale", "seed"):
                raise
            raise KeyError(str(error)) from None


class Prints(Wrong):
    """Print the progress."""

    def step(self, states: Sequence[Denoising]) -> None:
        sys.stdout.write("one more step\n")
        sys.stdout.flush()
        super().step(states)


class Remembers(Wrong):
    """Begin where the last picture ended."""

    last = np.float32(0)

    def begin(self, job: Job) -> Denoising:
        state = super().begin(job)
        state.latents = state.latents + self.last
        return state

    def finish(self, state: Denoising) -> Callable[[], Picture]:
        self.last = np.float32(state.aim.mean())
        return super().finish(state)


class ResolvesFutures(Wrong):
    """Resolve the job's future."""

    def run_job(self, job: Job) -> tuple[bytes, int]:
        result = super().run_job(job)
        job.fut.set_result(result)
        return result


class SameAlways(Wrong):
    """Draw the same noise for every seed."""

    def begin(self, job: Job) -> Denoising:
        state = super().begin(job)
        state.latents = np.zeros_like(state.latents)
        return state


class SeedsTheProcess(Wrong):
    """Seed the random numbers of the whole process."""

    def begin(self, job: Job) -> Denoising:
        random.seed(getattr(job.req, "seed", 0))
        return super().begin(job)


class SharesState(Wrong):
    """Share a counter of steps among all jobs."""

    done = 0

    def begin(self, job: Job) -> Denoising:
        self.done = 0
        return super().begin(job)

    def step(self, states: Sequence[Denoising]) -> None:
        super().step(states)
        self.done += 1
        for state in states:
            state.latents = state.latents * np.float32(1 + self.done / 10)


class Silent(Wrong):
    """Report no steps."""

    def begin(self, job: Job) -> Denoising:
        return super().begin(replace(job, on_step=None))


class SquareByDefault(Wrong):
    """Treat the request's default size as a requested size."""

    def begin(self, job: Job) -> Denoising:
        if hasattr(job.req, "model_fields_set"):
            job = replace(job, req=job.req.model_copy(update={"size": job.req.size}))
        return ToyWorker.begin(self, job)


class TellsNoSeed(Wrong):
    """Draw a random seed, but do not report it."""

    def run_job_with_latents(self, job: Job) -> tuple[bytes, int, bytes]:
        png, _, latents = super().run_job_with_latents(job)
        return png, getattr(job.req, "seed", None) or 0, latents


class TurnsPictures(Wrong):
    """Swap height and width."""

    def begin(self, job: Job) -> Denoising:
        state = super().begin(job)
        state.latents = state.latents.transpose(0, 2, 1).copy()
        state.aim = state.aim.transpose(0, 2, 1).copy()
        return state


class WideLatents(Wrong):
    """Return latents in float32."""

    def finish(self, state: Denoising) -> Callable[[], Picture]:
        picture = super().finish(state)()
        latents = np.frombuffer(picture.latents, "<f2").astype("<f4").tobytes()
        return lambda: replace(picture, latents=latents)


class WritesIntoRequests(Wrong):
    """Write the seed into the request."""

    def begin(self, job: Job) -> Denoising:
        state = super().begin(job)
        if hasattr(job.req, "model_copy"):
            job.req.seed = state.request.seed
        return state
