"""stable-diffusion.cpp as a side of the full-size benchmark, by the wheels of cyllama.

https://github.com/leejet/stable-diffusion.cpp/blob/master/docs/performance.md: flash attention "slows things down" on
most backends but CUDA, so it stays off. Its default is one thread for each physical core.
"""

from __future__ import annotations

import time

import psutil
from full_size_case import Case
from plain_pipeline import encoded


class StableDiffusionCpp:
    """Draws with stable-diffusion.cpp."""

    def __init__(self, model: str) -> None:
        """Load a single file."""
        from cyllama.sd import SDContext, SDContextParams, set_log_callback, set_progress_callback

        set_log_callback(lambda *_: None)
        self._ends: list[float] = []
        self._steps = 0
        set_progress_callback(self._stepped)
        threads = psutil.cpu_count(logical=False) or 1
        self._context = SDContext(SDContextParams(model_path=model, vae_decode_only=True, n_threads=threads))

    def prepare(self, case: Case) -> None:
        """Do nothing: the library prepares nothing for a size."""

    def draw(self, case: Case, seed: int) -> dict[str, float]:
        """See `Program`; the library reports its steps alone."""
        from cyllama.sd import SampleMethod
        from PIL import Image

        began = time.perf_counter()
        self._ends, self._steps = [], case.steps
        (image,) = self._context.generate(
            prompt=case.prompt(seed),
            width=case.side,
            height=case.side,
            seed=seed,
            sample_steps=case.steps,
            cfg_scale=case.guidance,
            sample_method=SampleMethod.LCM,
        )
        encoded(Image.fromarray(image.to_numpy()))
        seconds = {"picture": time.perf_counter() - began}
        if len(self._ends) > 1:
            seconds["step"] = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        return seconds

    def _stepped(self, _step: int, steps: int, _seconds: float) -> None:
        if steps == self._steps:  # the decoder reports its tiles, too
            self._ends.append(time.perf_counter())
