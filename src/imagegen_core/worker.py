"""The protocols a backend's worker implements."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from imagegen_core.job import Job, StepDone
from imagegen_core.parts import Parts
from imagegen_core.picture import Picture
from imagegen_core.styles import LoraUse

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
    """Where one job stands between two steps.

    Attributes:
        failure: What went wrong with this job alone in the last step, such as an error of its scheduler.
    """

    failure: Exception | None

    @property
    def steps_left(self) -> int:
        """Steps to go; at 0 it can be finished."""
        ...

    @property
    def rows(self) -> int:
        """How much of a forward pass a step takes: 1, or 2 with classifier-free guidance."""
        ...


@runtime_checkable
class SteppedWorker(Worker, Protocol[State]):
    """A worker whose denoising can be interleaved: `run_job` is begin, step until done, finish.

    One thread at a time calls these. Each may raise `OutOfMemoryError`, and then has changed nothing.
    """

    def begin(self, job: Job) -> State:
        """Check the request, encode its prompt, draw its noise; nothing is denoised yet."""
        ...

    def group(self, state: State) -> Hashable:
        """What states must have in common to be stepped together; as text it tells people what that is."""
        ...

    def step(self, states: Sequence[State]) -> None:
        """Take each state of a group one denoising step on, all in one forward pass.

        What goes wrong with one state alone becomes its `failure`. Where this raises, no state has moved.
        """
        ...

    def finish(self, state: State) -> Callable[[], Picture]:
        """Decode the latents of a state that is done. The rest, encoding the picture, is called on any thread."""
        ...


@runtime_checkable
class BeginningInParts(Protocol):
    """A stepped worker whose `begin` may take longer than a step, as a long prompt makes it."""

    def begin_in_parts(self, job: Job) -> Parts[Any]:
        """Do what `begin` does, yield between its parts, and return the state.

        Others' steps come in between, with other LoRAs than this job's. A job that is given up is not gone on with.
        A class that overrides `begin` alone has its `begin` called instead.
        """
        ...


@runtime_checkable
class NeedsLibraries(Protocol):
    """A worker class whose libraries import others on first use, so that importing the class proves little."""

    def import_libraries(self) -> None:
        """Import, as a class method, all that drawing needs; ``imagegen plugins doctor`` explains what it raises."""
        ...


@runtime_checkable
class BatchInvariant(Protocol):
    """A stepped worker that can prove that its batches do not change pictures."""

    def trial(self, states: Sequence[Any]) -> bool:
        """Take each state one step on by itself, and say whether a step together would have led to the same bits."""
        ...

    def pad(self, rows: int | None) -> None:
        """Fill every forward pass up to `rows` from now on, also those of one state; None stops it.

        Where a result depends on the number of rows, as on GPUs, this makes it the same number always.
        """
        ...


@runtime_checkable
class Previewing(Protocol):
    """A stepped worker that shows what it is drawing."""

    def preview(self, state: Any) -> bytes:
        """The latents as a small PNG."""
        ...


@runtime_checkable
class Computing(Protocol):
    """A worker that computes on a thread of its own, where others that compute must go too or slow it down."""

    def compute(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What `function` returns, run on that thread between two calls of the worker's."""
        ...


@runtime_checkable
class WarmingUp(Protocol):
    """A worker that may have work to do before its first picture, such as compiling its network."""

    def warm_up(self, on_step: Callable[[StepDone], None] | None = None) -> None:
        """Do it, telling of each part that is done; again, it costs next to nothing."""
        ...


@runtime_checkable
class MemoryAware(Protocol):
    """A stepped worker that knows what its device's memory takes."""

    def rows_that_fit(self, state: Any) -> int:
        """How many rows of this state's shape one forward pass can have in the memory that is free now, from 1."""
        ...


class DeviceMemory(NamedTuple):
    """A device's memory.

    Attributes:
        device: What the device is called; each of a machine's otherwise.
        total: Bytes there are.
        free: Bytes that nobody uses at the moment.
    """

    device: str
    total: int
    free: int


@runtime_checkable
class ReportsMemory(Protocol):
    """A worker that knows what its model takes, so that several can be kept within a budget."""

    def memory_bytes(self) -> int:
        """Bytes that the model takes on its device, now: asked on any thread, and often, while pictures are drawn."""
        ...

    def device_memory(self) -> DeviceMemory:
        """The memory of that device."""
        ...


@runtime_checkable
class SharesComputeThread(Protocol):
    """A worker that computes on a thread of its own, and can share that of another on its device."""

    def compute_beside(self, other: Worker) -> None:
        """Compute on the thread of `other` from now on, where both can; nobody draws meanwhile."""
        ...


@runtime_checkable
class SupportsLoras(Protocol):
    """A worker that draws with the LoRAs of a request, as modes have them."""

    def load_loras(self, loras: Sequence[LoraUse]) -> None:
        """Load them, so that what does not fit is known before a picture wants it."""
        ...
