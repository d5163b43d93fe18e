"""Keep as many loaded programs as memory takes, and measure each in turn within a budget of time."""

from __future__ import annotations

import multiprocessing
import time
from collections import OrderedDict
from typing import Any

import psutil
from sides import Side, SideError, SideProcess

_SPARE = 1.5e9
_IMPORTED_ONCE = [
    "imagegen_sd15.worker",
    "imagegen_sdxl.worker",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl",
]


class Processes:
    """Loaded programs, each in its own process; a program without use leaves first, when memory is short."""

    def __init__(self, device: str, minutes: float) -> None:
        """Take the device, whose memory counts, and the budget."""
        self._device = device
        self._deadline = time.monotonic() + 60 * minutes
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_IMPORTED_ONCE)
        self._loaded: OrderedDict[str, SideProcess] = OrderedDict()
        self._took: dict[tuple[str, str], float] = {}

    @property
    def seconds_left(self) -> float:
        """The rest of the budget."""
        return self._deadline - time.monotonic()

    def ask(self, name: str, side: Side, needed: float, case: str, *arguments: Any) -> Any:
        """Return the result of a program's work; load the program first if necessary.

        Args:
            name: The program's name.
            side: The function to load it, and its arguments.
            needed: The bytes that it needs.
            case: The kind of work: its next time is expected to take as long.
            arguments: The work's arguments.

        Raises:
            SideError: The program failed, or there is too little memory or time for it.
        """
        expected = self._took.get((name, case), 0.0)
        if self.seconds_left <= max(expected, 1):
            raise SideError("the time is up")
        if name not in self._loaded:
            self._loaded[name] = self._started(side, needed)
        self._loaded.move_to_end(name)
        began = time.monotonic()
        try:
            answer = self._loaded[name].ask(*arguments, limit=max(self.seconds_left, 0))
        except SideError:
            del self._loaded[name]
            raise
        self._took[name, case] = time.monotonic() - began
        return answer

    def close(self) -> None:
        """End all programs."""
        while self._loaded:
            self._loaded.popitem()[1].close()

    def is_loaded(self, name: str) -> bool:
        """Return whether a program has been loaded, and has not left since."""
        return name in self._loaded

    def _started(self, side: Side, needed: float) -> SideProcess:
        while self._free() < needed + _SPARE and self._loaded:
            self._loaded.popitem(last=False)[1].close()
        if self._free() < needed + _SPARE:
            raise SideError(
                f"it needs about {(needed + _SPARE) / 1e9:.0f} GB of memory, and {self._free() / 1e9:.0f} GB are free"
            )
        process = SideProcess(side, self._context)
        process.wait(self.seconds_left)
        return process

    def _free(self) -> float:
        if self._device == "cpu":
            return float(psutil.virtual_memory().available)
        import torch

        return float(torch.cuda.mem_get_info()[0])
