"""imagegen as a side of the full-size benchmark: a worker, as `run_job` draws with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from full_size_case import Case, Laps


class Ours:
    """Draws with a worker, one picture at a time."""

    def __init__(self, model: str, device: str, settings: Mapping[str, Any]) -> None:
        """Load the worker with its defaults, except for `settings`."""
        from imagegen_core import load_worker

        self._device = device
        self._prepared: set[Case] = set()
        self.worker: Any = load_worker(settings=settings_of(model, device, settings))

    def prepare(self, case: Case) -> None:
        """See `Program`."""
        if case.shortest not in self._prepared:
            self._prepared.add(case.shortest)
            self.draw(case.shortest, seed=0)

    def draw(self, case: Case, seed: int) -> dict[str, float]:
        """See `Program`; this is `run_job`, part by part."""
        from imagegen_core import GenerateRequest, Job

        request = GenerateRequest(
            prompt=case.prompt(seed),
            size=f"{case.side}x{case.side}",
            num_inference_steps=case.steps,
            guidance_scale=case.guidance,
            seed=seed,
        )
        laps = Laps(self._device)
        state = self.worker.begin(Job(req=request))
        laps.lap("text")
        while state.steps_left:
            self.worker.step([state])
            if state.failure:
                raise state.failure
        laps.lap("steps")
        encode = self.worker.finish(state)
        laps.lap("VAE")
        encode()
        laps.lap("PNG")
        return laps.results(case.steps)


def settings_of(model: str, device: str, settings: Mapping[str, Any]) -> Any:
    """Return the settings of a worker; the environment has no part in them."""
    from imagegen_core import Settings

    return Settings.load(environ={}, **{"model": model, "device": device, **settings})
