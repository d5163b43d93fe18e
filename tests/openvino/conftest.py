"""Workers of both backends on one checkpoint of each family."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imagegen_core import GenerateRequest, Job, Picture, Settings
from imagegen_openvino.worker import make_worker
from imagegen_sd15 import DiffusersCudaWorker
from imagegen_sdxl import DiffusersSDXLCudaWorker

_TORCH = {"sd15": DiffusersCudaWorker, "sdxl": DiffusersSDXLCudaWorker}


@dataclass(frozen=True)
class Pair:
    """Two workers with one checkpoint, in fp32.

    Attributes:
        checkpoint: The checkpoint.
        ours: OpenVINO's worker.
        theirs: torch's worker.
    """

    checkpoint: Path
    ours: Any
    theirs: Any

    def assert_alike(self, most: int = 1, **fields: Any) -> None:
        """Check that both draw a picture with at most this difference, in levels of 255."""
        ours, theirs = (draw(worker, **fields) for worker in (self.ours, self.theirs))
        assert difference(ours, theirs) <= most
        assert ours.seed == theirs.seed
        pooled = [np.frombuffer(picture.latents, "<f2").astype(float) for picture in (ours, theirs)]
        np.testing.assert_allclose(*pooled, rtol=2e-3, atol=2e-3)  # float16


def settings(checkpoint: Path, **fields: Any) -> Settings:
    """Return settings in fp32, without recipes."""
    return Settings(**{"model": str(checkpoint), "device": "cpu", "dtype": "fp32", "recipe": False, **fields})


def draw(worker: Any, loras: Any = (), **fields: Any) -> Picture:
    """Draw a picture in two steps."""
    request = GenerateRequest.given(**{"prompt": "a lake", "seed": 1, "num_inference_steps": 2, **fields})
    return Picture(*worker.run_job_with_latents(Job(req=request.with_loras(list(loras)))))


def difference(first: Picture, second: Picture) -> int:
    """Return the largest difference of two pictures, in levels of 255."""
    return int(np.abs(np.asarray(first.image, int) - np.asarray(second.image, int)).max())


@pytest.fixture(scope="package", params=_TORCH)
def pair(request: pytest.FixtureRequest) -> Pair:
    """Both backends' workers on a tiny random checkpoint."""
    checkpoint = request.getfixturevalue(f"{request.param}_checkpoint")
    return Pair(checkpoint, make_worker(0, settings(checkpoint)), _TORCH[request.param](0, settings(checkpoint)))
