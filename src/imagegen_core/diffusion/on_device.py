"""A worker's device, precision, compute thread and memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from imagegen_core.diffusion.compute_thread import ComputeThread
from imagegen_core.diffusion.construction_lock import undisturbed
from imagegen_core.diffusion.device import choose_device, choose_dtype, keep_large_buffers, limit_threads
from imagegen_core.diffusion.memory import device_memory, weight_bytes
from imagegen_core.diffusion.pretrained import import_diffusers
from imagegen_core.diffusion.switches import Switches
from imagegen_core.settings import Settings
from imagegen_core.worker import DeviceMemory, Worker


class OnDevice:
    """A worker's part that computes with torch; implements `HasComputeThread`, `SharesComputeThread`, `ReportsMemory`.

    Attributes:
        device: The configured device, else the first GPU, else the CPU.
        dtype: The configured precision, else fp16 on a GPU, bf16 on a CPU with native bf16, else fp32.
        pipe: The diffusers pipeline; the subclass sets it.
    """

    pipe: Any

    def __init__(self, settings: Settings) -> None:
        """Choose the device, and start the compute thread.

        Raises:
            SettingsError: The configured device or precision is not available here.
        """
        limit_threads()
        self.device = choose_device(settings)
        self.dtype = choose_dtype(settings, self.device)
        self._switches = Switches(self.device, settings.batching)
        self._switches.hold()
        if self.device.type == "cpu":
            keep_large_buffers()  # before the thread has an arena
        self._compute = ComputeThread()

    @classmethod
    def import_libraries(cls) -> None:
        """Import the libraries of diffusers' pipelines: see `imagegen_core.NeedsLibraries`."""
        import_diffusers()

    def compute(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run `function` on the compute thread in its turn, and return its result."""
        return self._compute.run(undisturbed, self._with_switches, function, *arguments)

    def compute_at_length(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function of many steps on the compute thread; it calls `give_way` between its steps."""
        return self._compute.run_at_length(undisturbed, self._with_switches, function, *arguments)

    def give_way(self) -> None:
        """Let other models on the device take their turns, in the middle of `compute_at_length`."""
        self._compute.give_way()
        self._switches.hold()

    def compute_beside(self, other: Worker) -> None:
        """Use another worker's compute thread from now on, if both are on one device; no drawing may run meanwhile."""
        if isinstance(other, OnDevice) and other.device == self.device:
            self._compute = other._compute  # noqa: SLF001 - the same class

    def memory_bytes(self) -> int:
        """Return the memory of the pipeline's weights in bytes; shared tensors count once."""
        return weight_bytes(self.pipe)

    def device_memory(self) -> DeviceMemory:
        """Return the device's name, and its total and free memory."""
        return device_memory(self.device)

    def synchronize(self) -> None:
        """Wait for the device, so that a finished step is complete: it can be timed, and cancelled in time."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # the worker's own device, not torch's default device
        elif self.device.type != "cpu":
            getattr(torch, self.device.type).synchronize()

    def _with_switches(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self._switches.hold()
        return function(*arguments)
