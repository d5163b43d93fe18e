"""Protocols for a backend's worker."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, TypeVarTuple, runtime_checkable

from imagegen_core.job import Job, StepDone
from imagegen_core.numerics import NumericsPlan
from imagegen_core.parts import Parts
from imagegen_core.picture import Picture
from imagegen_core.styles import LoraUse

State = TypeVar("State", bound="DenoisingState")
Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


@runtime_checkable
class Worker(Protocol):
    """A model on a device; it draws one job at a time.

    A worker is constructed as ``WorkerClass(worker_id=0, settings=settings)`` and holds its model
    until it is dropped. Both methods raise `InvalidRequestError` for a request they cannot draw.
    """

    worker_id: int

    def run_job(self, job: Job) -> tuple[bytes, int]:
        """Draw the job's request; return the PNG and the seed."""
        ...

    def run_job_with_latents(self, job: Job) -> tuple[bytes, int, bytes]:
        """Draw like `run_job`, and also return the pooled latents of the same pass; see `Picture.latents`."""
        ...


class DenoisingState(Protocol):
    """The state of a job between two steps.

    Attributes:
        failure: An error of only this job in the last step, such as an error of its scheduler; else None.

    A state whose group changes, such as for a second stage at a larger size, also has ``stage``: a number that grows
    with each change. The engine asks for its group again after each. A step of such a state may also be a part of other
    work between two stages, such as enlarging its picture.
    """

    failure: Exception | None

    @property
    def steps_left(self) -> int:
        """Number of remaining steps; at 0 the job can be finished."""
        ...

    @property
    def rows(self) -> int:
        """Rows of this job in a forward pass: 1, or 2 with classifier-free guidance."""
        ...


@runtime_checkable
class SteppedWorker(Worker, Protocol[State]):
    """A worker with separate steps: `run_job` is `begin`, then `step` until done, then `finish`.

    Only one thread at a time calls these methods. Each may raise `OutOfMemoryError`, and then has changed nothing.
    """

    def begin(self, job: Job) -> State:
        """Check the request, encode its prompt and draw its noise; denoise nothing yet."""
        ...

    def group(self, state: State) -> Hashable:
        """Return the group key; states with equal keys can share a step. Its text describes the group to people."""
        ...

    def step(self, states: Sequence[State]) -> None:
        """Advance each state of a group by one denoising step, all in one forward pass.

        An error of a single state becomes its `failure`. If this method raises, no state has changed.
        """
        ...

    def finish(self, state: State) -> Callable[[], Picture]:
        """Decode the latents of a finished state; return a function that encodes the picture, on any thread."""
        ...


@runtime_checkable
class BeginsInParts(Protocol):
    """A stepped worker with a `begin` longer than a step, for example for a long prompt."""

    def begin_in_parts(self, job: Job) -> Parts[Any]:
        """Do the work of `begin`, yield between its parts, and return the state.

        Steps of other jobs run between the parts, with other LoRAs than this job's. A cancelled job is not continued.
        If a class overrides only `begin`, its `begin` is called instead.
        """
        ...


@runtime_checkable
class HandsOver(Protocol):
    """A stepped worker that draws a part of a picture's steps: those before a refiner, or the refiner's.

    `begin` refuses a request with a refiner, unless `Job.is_first_part` or `Job.half_drawn` is set. With the first, the
    state has the steps before the refiner alone, and `hand_over` ends it in place of `finish`. With the second, the
    state goes on with a half-drawn picture from another worker's `hand_over`, and `finish` ends it.
    """

    def hand_over(self, state: Any) -> Any:
        """Return the half-drawn picture of a state without steps left."""
        ...

    def run_first_part(self, job: Job) -> Any:
        """Draw the steps before the refiner, and return the half-drawn picture."""
        ...


@runtime_checkable
class NeedsLibraries(Protocol):
    """A worker class with lazy libraries: they import others on first use, so importing the class proves little."""

    def import_libraries(self) -> None:
        """Import everything needed for drawing (a class method); ``imagegen plugins doctor`` explains its errors."""
        ...


@runtime_checkable
class BatchInvariant(Protocol):
    """A stepped worker with a test that batches do not change pictures."""

    def trial(self, states: Sequence[Any]) -> bool:
        """Advance each state by one step alone; return whether a shared step would give the same bits.

        If results depend on the number of rows, as on GPUs, a worker may fill every pass up to a fixed number, also for
        a single state. This number belongs to its numerics plan.
        """
        ...


@runtime_checkable
class HasNumerics(Protocol):
    """A worker with a numerics plan, so that recipes, ``/health`` and replicas can name and compare it.

    Attributes:
        numerics: The plan, fixed from the load on.
    """

    numerics: NumericsPlan


@runtime_checkable
class ShowsPreviews(Protocol):
    """A stepped worker with previews of pictures in progress."""

    def preview(self, state: Any) -> bytes:
        """Return the latents as a small PNG."""
        ...


@runtime_checkable
class ReleasesStates(Protocol):
    """A stepped worker with states that hold more than memory, such as a place in a remote service."""

    def dropped(self, state: Any) -> None:
        """Release a state: its job was cancelled, late or failed, so neither `step` nor `finish` follows.

        Each begun state ends either in `finish` or here. An error is logged, and changes nothing else.
        """
        ...


@runtime_checkable
class HasComputeThread(Protocol):
    """A worker with its own compute thread. Other computations must use it too, or they slow the worker down."""

    def compute(self, function: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
        """Run `function` on that thread between two calls of the worker, and return its result."""
        ...


@runtime_checkable
class WarmsUp(Protocol):
    """A worker with work to do before its first picture, such as compiling its network."""

    def warm_up(self, on_step: Callable[[StepDone], None] | None = None) -> None:
        """Do this work, and report each finished part to `on_step`; a second call costs almost nothing."""
        ...


@runtime_checkable
class LimitsRows(Protocol):
    """A stepped worker with an estimate of its device's memory."""

    def rows_that_fit(self, state: Any) -> int:
        """Return how many rows of this state's shape fit in one forward pass with the memory free now, from 1."""
        ...


class DeviceMemory(NamedTuple):
    """The memory of a device.

    Attributes:
        device: The device's name, unique on its machine.
        total: Total bytes.
        free: Bytes that are free now.
    """

    device: str
    total: int
    free: int


@runtime_checkable
class ReportsMemory(Protocol):
    """A worker with a measurement of its model's memory, to keep several models within a budget."""

    def memory_bytes(self) -> int:
        """Return the model's current bytes on its device; called often, on any thread, also during drawing."""
        ...

    def device_memory(self) -> DeviceMemory:
        """Return the memory of that device."""
        ...


@runtime_checkable
class SharesComputeThread(Protocol):
    """A worker with its own compute thread, or the shared thread of another worker on its device."""

    def compute_beside(self, other: Worker) -> None:
        """Compute on the thread of `other` from now on, if both support it; no drawing may be in progress."""
        ...


@runtime_checkable
class SupportsLoras(Protocol):
    """A worker with support for a request's LoRAs, for example from modes."""

    def load_loras(self, loras: Sequence[LoraUse]) -> None:
        """Load LoRAs in advance, to find incompatible LoRAs before the first picture."""
        ...
