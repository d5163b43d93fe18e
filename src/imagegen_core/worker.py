"""The protocols a backend's worker implements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar, runtime_checkable

from imagegen_core.job import Job
from imagegen_core.picture import Picture

State = TypeVar("State", bound="DenoisingState")


@runtime_checkable
class Worker(Protocol):
    """One model on one device, drawing one job at a time.

    A worker is constructed as ``WorkerClass(worker_id=0, settings=settings)`` and holds its model
    until it is dropped. Both methods raise `InvalidRequestError` for a request they cannot draw.
    """

    worker_id: int

    def run_job(self, job: Job) -> tuple[bytes, int]:
        """Draw the job's request: the PNG, and the seed used."""
        ...

    def run_job_with_latents(self, job: Job) -> tuple[bytes, int, bytes]:
        """Draw as `run_job` does, and give the pooled latents of that same pass: see `Picture.latents`."""
        ...


class DenoisingState(Protocol):
    """Where one job stands between two steps."""

    @property
    def done(self) -> bool:
        """Whether all steps are behind it, so that it can be finished."""
        ...


class SteppedWorker(Worker, Protocol[State]):
    """A worker whose denoising can be interleaved: `run_job` is begin, step until done, finish."""

    def begin(self, job: Job) -> State:
        """Check the request, encode its prompt, draw its noise; nothing is denoised yet."""
        ...

    def step(self, states: Sequence[State]) -> None:
        """Take each state one denoising step on, all in one forward pass; their latents share a shape."""
        ...

    def finish(self, states: Sequence[State]) -> list[Picture]:
        """Decode the latents of states that are done, and encode their pictures."""
        ...
