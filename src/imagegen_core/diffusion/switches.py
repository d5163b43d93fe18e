"""torch's global switches with an effect on pictures: read at load, and kept for every computation of the model."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch.backends import cuda, cudnn, mkldnn

logger = logging.getLogger(__name__)

Value = bool | str | tuple[bool, ...]


class _Switch(NamedTuple):
    """A global switch of torch."""

    read: Callable[[], Value]
    write: Callable[[Any], None]


def _attribute(owner: Any, name: str) -> _Switch:
    return _Switch(lambda: getattr(owner, name), lambda value: setattr(owner, name, value))


def _sums(name: str) -> _Switch:
    """Return the switch for sums of products in half precision: in that precision, and by split-K (torch 2.10)."""
    names = [each for each in (name, f"{name}_split_k") if hasattr(cuda.matmul, each)]
    attribute = _attribute(cuda.matmul, name)
    return _Switch(
        lambda: tuple(getattr(cuda.matmul, each) for each in names),
        lambda value: attribute.write(value if len(names) > 1 else value[0]),
    )


def _everywhere() -> dict[str, _Switch]:
    return {"float32_products": _Switch(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision)}


def _on_cpu() -> dict[str, _Switch]:
    return {"onednn": _attribute(mkldnn, "enabled")}


def _on_cuda() -> dict[str, _Switch]:
    return {
        "tf32_convolutions": _attribute(cudnn, "allow_tf32"),
        "fp16_sums": _sums("allow_fp16_reduced_precision_reduction"),
        "bf16_sums": _sums("allow_bf16_reduced_precision_reduction"),
        "cudnn_benchmark": _attribute(cudnn, "benchmark"),
        "deterministic": _Switch(torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
        "flash_attention": _Switch(cuda.flash_sdp_enabled, cuda.enable_flash_sdp),
        "efficient_attention": _Switch(cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp),
        "cudnn_attention": _Switch(cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp),
    }


# cuDNN's benchmark chooses by timing and by free memory. Its attention is the first choice of newer releases of torch
# on some GPUs, with other kernels in each release of cuDNN.
_OFF_IF_EXACT = ("cudnn_benchmark", "cudnn_attention")


class Switches:
    """The switches of one model; they are global, so a program may change them after the load.

    With exact batching on CUDA, cuDNN's benchmark and cuDNN's attention are off. All other switches stay as the program
    has set them before the load.

    Attributes:
        values: The model's values, by name.
    """

    def __init__(self, device: torch.device, batching: Literal["exact", "fast"]) -> None:
        """Read the present values.

        Args:
            device: The model's device.
            batching: See `imagegen_core.Settings`.
        """
        self._switches = _everywhere()
        if device.type == "cpu":
            self._switches |= _on_cpu()
        elif device.type == "cuda":
            self._switches |= _on_cuda()
        self.values = {name: switch.read() for name, switch in self._switches.items()}
        if batching == "exact":
            self.values |= {name: False for name in _OFF_IF_EXACT if name in self.values}
        self._told: set[str] | None = None  # the names in warnings so far; None before the first use

    def hold(self) -> None:
        """Set the switches to the model's values, on the compute thread before each computation.

        They are not set back: two models on two GPUs compute at the same time, and the switches are common to both.
        """
        changed = [name for name, switch in self._switches.items() if switch.read() != self.values[name]]
        for name in changed:
            self._switches[name].write(self.values[name])
        if self._told is None:
            self._told = set()
        elif not self._told.issuperset(changed):
            self._told.update(changed)
            logger.warning(
                "The program changed torch's switches (%s) after a model was loaded: they are set back, because the "
                "model's pictures depend on them; set them before the load",
                ", ".join(changed),
            )
