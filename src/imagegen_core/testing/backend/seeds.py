"""Checks that a seed always gives the same picture."""

from __future__ import annotations

import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from imagegen_core.testing.backend.kit import BackendKit
from imagegen_core.testing.quick import QUICK
from imagegen_core.worker import Worker


class SeedChecks(BackendKit):
    """Seeds, and independence from everything else."""

    @QUICK
    def test_equal_seeds_give_equal_pictures(self, worker: Worker) -> None:
        """Users reuse a seed, and the engine draws an interrupted job again: both need exactly the same bytes."""
        first, again = (self.draw(worker, seed=7) for _ in range(2))
        assert first.png == again.png, "the same request was drawn twice and gave two pictures"
        assert first.latents == again.latents, "the same request was drawn twice and gave two latents"

    @QUICK
    def test_other_seeds_give_other_pictures(self, worker: Worker) -> None:
        """A request for four pictures should not give the same picture four times."""
        assert self.pixels(worker, seed=7) != self.pixels(worker, seed=8)

    @pytest.mark.parametrize("seed", [0, 2**32, 2**63 - 1])
    def test_any_seed_is_used_unchanged(self, worker: Worker, seed: int) -> None:
        """Seeds range from 0 to 2**63 - 1. A truncated seed would give two pictures the same name."""
        assert self.draw(worker, seed=seed).seed == seed
        assert self.pixels(worker, seed=seed) != self.pixels(worker, seed=seed % 2**31 + 1)

    def test_a_random_seed_is_returned(self, worker: Worker) -> None:
        """A user must be able to draw a picture again: the random seed is reported for this."""
        first, second = (self.draw(worker, seed=None) for _ in range(2))
        assert first.seed != second.seed, "two requests without a seed were drawn from the same one"
        assert self.draw(worker, seed=first.seed).png == first.png, "the returned seed draws another picture"

    def test_earlier_pictures_do_not_matter(self, worker: Worker) -> None:
        """A picture depends on its request alone: a job must leave nothing for the next."""
        first = self.draw(worker)
        self.draw(worker, prompt="something else altogether", seed=9, num_inference_steps=3)
        assert self.draw(worker).png == first.png

    def test_a_second_worker_draws_the_same_picture(self, worker: Worker, fresh_worker: Worker) -> None:
        """A server runs several workers, and restarts: all of them draw the same."""
        assert self.draw(fresh_worker).png == self.draw(worker).png

    def test_any_thread_may_draw(self, worker: Worker) -> None:
        """The engine makes the worker on one thread and draws on another."""
        here = self.draw(worker)
        with ThreadPoolExecutor(1) as threads:
            assert threads.submit(self.draw, worker).result().png == here.png

    def test_global_random_state_does_not_matter(self, worker: Worker) -> None:
        """Noise from a global generator would change whenever other code uses that generator."""
        pictures = []
        for seed in (1, 2):
            for seeded in _generators():
                seeded(seed)
            pictures.append(self.draw(worker))
        assert pictures[0].png == pictures[1].png

    def test_global_random_state_is_not_changed(self, worker: Worker) -> None:
        """A worker that seeds the global generators makes other code's random numbers repeat."""
        random.seed()
        before = random.getstate()
        self.draw(worker)
        assert random.getstate() == before, "drawing changed the state of Python's random module"
        if numpy := sys.modules.get("numpy"):
            numpy.random.seed(None)
            state = numpy.random.get_state()[1].copy()
            self.draw(worker)
            assert (numpy.random.get_state()[1] == state).all(), "drawing changed numpy's global generator"

    @QUICK
    def test_drawing_prints_nothing(self, worker: Worker, capfd: pytest.CaptureFixture[str]) -> None:
        """`imagegen generate -o -` writes the picture to stdout: other output would damage it."""
        capfd.readouterr()
        self.draw(worker)
        assert capfd.readouterr().out == ""

    def test_jobs_start_no_threads(self, worker: Worker) -> None:
        """Leftover threads accumulate over days, and each that computes slows the others down."""
        self.draw(worker)
        before = set(threading.enumerate())
        for seed in range(5):
            self.draw(worker, seed=seed)
        left = {thread.name for thread in set(threading.enumerate()) - before}
        assert not left, f"these threads were left behind: {', '.join(sorted(left))}"


def _generators() -> list[Any]:
    """Return the seed functions of this process's generators."""
    seeders: list[Any] = [random.seed]
    if numpy := sys.modules.get("numpy"):
        seeders.append(numpy.random.seed)
    if torch := sys.modules.get("torch"):
        seeders.append(torch.manual_seed)
    return seeders
