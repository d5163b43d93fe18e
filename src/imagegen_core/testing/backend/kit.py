"""The base of a backend's checks: a worker, and helpers to draw with it."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from PIL import Image

from imagegen_core.backend import Backend
from imagegen_core.job import Job
from imagegen_core.picture import Picture
from imagegen_core.plugins.registry import Registry
from imagegen_core.request import GenerateRequest, Size
from imagegen_core.settings import Settings
from imagegen_core.testing.configured import Configured
from imagegen_core.worker import SteppedWorker, Worker


class BackendKit(Configured):
    """Fixtures and helpers.

    Attributes:
        backend: The backend's name in its plugin.
        size: A size that is drawn quickly.
    """

    backend: ClassVar[str]
    size: ClassVar[str] = "64x64"

    @pytest.fixture(scope="class")
    @classmethod
    def description(cls) -> Backend:
        """Return the backend's description by its plugin."""
        return Registry.discover().backend(cls.backend)

    @pytest.fixture(scope="class")
    @classmethod
    def worker(cls, description: Backend, settings: Settings) -> Worker:
        """Make one worker, shared by most checks."""
        return description.load()(worker_id=0, settings=settings)

    @pytest.fixture(scope="class")
    @classmethod
    def fresh_worker(cls, description: Backend, settings: Settings) -> Worker:
        """Make a second worker, which no engine uses."""
        return description.load()(worker_id=1, settings=settings)

    @pytest.fixture(scope="class")
    @classmethod
    def stepped(cls, worker: Worker) -> Any:
        """Return the worker, if its steps can be interleaved."""
        if not isinstance(worker, SteppedWorker):
            pytest.skip("the worker has no steps: it draws whole jobs (imagegen_core.SteppedWorker)")
        return worker

    def ask(self, **fields: Any) -> GenerateRequest:
        """Build a request for a small picture of 2 steps with seed 1, changed by `fields`; None leaves a field out."""
        return GenerateRequest.given(
            **{"prompt": "a red lake", "size": self.size, "seed": 1, "num_inference_steps": 2, **fields}
        )

    def draw(self, worker: Worker, **fields: Any) -> Picture:
        """Draw the request of `ask`."""
        return Picture(*worker.run_job_with_latents(Job(req=self.ask(**fields))))

    def pixels(self, worker: Worker, **fields: Any) -> bytes:
        """Draw the pixels without the recipe, for comparisons of different pictures."""
        return self.draw(worker, **fields).image.tobytes()

    def draw_by_steps(self, worker: Any, **fields: Any) -> Picture:
        """Draw the request of `ask`, one step at a time."""
        return finished(worker, worker.begin(Job(req=self.ask(**fields))))

    def wide(self, description: Backend) -> Size:
        """Return a size in landscape format, or the backend's only size."""
        if "size" in description.without:
            return Size.parse(description.default_size)
        size = Size.parse(self.size)
        return Size(size.width + size.width // 2 // 8 * 8, size.height)


def input_image(width: int = 64, height: int = 64) -> Image.Image:
    """Return a picture to draw from: a gradient of colours."""
    image = Image.merge("RGB", [Image.linear_gradient("L"), Image.radial_gradient("L"), Image.new("L", (256, 256), 90)])
    return image.resize((width, height))


def input_mask(width: int = 64, height: int = 64) -> Image.Image:
    """Return a mask with a white left half."""
    mask = Image.new("L", (width, height))
    mask.paste(255, (0, 0, width // 2, height))
    return mask


def finished(worker: Any, state: Any) -> Picture:
    """Run a state's remaining steps, and return its picture."""
    while state.steps_left:
        worker.step([state])
        if state.failure is not None:
            raise state.failure
    picture: Picture = worker.finish(state)()
    return picture
