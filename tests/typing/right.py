"""Plugin code that follows the protocols, and that a type checker accepts."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from imagegen_toy.worker import Denoising, ToyWorker
from numpy import uint8
from numpy.typing import NDArray

from imagegen_core import (
    Backend,
    GenerateRequest,
    ImageStore,
    Job,
    LocalEngine,
    Picture,
    Settings,
    SteppedWorker,
    Upscaler,
    UpscalerDef,
    Worker,
    hookimpl,
)


class Plain:
    """A worker that draws whole jobs."""

    def __init__(self, worker_id: int = 0, settings: Settings | None = None) -> None:
        self.worker_id = worker_id

    def run_job(self, job: Job) -> tuple[bytes, int]:
        return job.req.prompt.encode(), job.req.seed or 0

    def run_job_with_latents(self, job: Job) -> tuple[bytes, int, bytes]:
        return (*self.run_job(job), b"")


class State:
    """The state of a job."""

    failure: Exception | None = None
    steps_left: int = 1
    rows: int = 1


class Stepped(Plain):
    """A worker whose steps can be interleaved."""

    def begin(self, job: Job) -> State:
        return State()

    def group(self, state: State) -> Hashable:
        return "all"

    def step(self, states: Sequence[State]) -> None:
        for state in states:
            state.steps_left -= 1

    def finish(self, state: State) -> Callable[[], Picture]:
        return lambda: Picture(b"", 0, b"")


class Doubler:
    """An upscaler."""

    name = "doubler"
    scale = 2

    def enlarge(self, pixels: NDArray[uint8]) -> NDArray[uint8]:
        return pixels.repeat(2, axis=0).repeat(2, axis=1)


class EmptyStore:
    """An image store that keeps nothing."""

    def put(self, key: str, data: bytes) -> None: ...

    def get(self, key: str) -> bytes | None:
        return None

    def delete(self, key: str) -> bool:
        return False

    def check(self) -> None: ...


@hookimpl
def imagegen_backends() -> list[Backend]:
    return [Backend(name="mine", summary="mine", worker="right:Stepped", default_size="64x64", without=("scheduler",))]


@hookimpl
def imagegen_upscalers() -> list[UpscalerDef]:
    return [UpscalerDef(name="doubler", summary="doubles", scale=2, factory="right:Doubler")]


plain: Worker = Plain()
stepped: SteppedWorker[State] = Stepped()
toy: SteppedWorker[Denoising] = ToyWorker()
upscaler: Upscaler = Doubler()
store: ImageStore = EmptyStore()


def draw(worker: Worker) -> Picture:
    with LocalEngine(worker) as engine:
        return engine.submit(GenerateRequest(prompt="a lake", seed=7)).result()
