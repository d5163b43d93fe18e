"""The programs of the full-size benchmark: imagegen with its backends and options, and its peers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from full_size_checkpoints import Checkpoint
from full_size_diffusers import Diffusers
from full_size_openvino import OpenVino
from full_size_ours import Ours
from full_size_sdcpp import StableDiffusionCpp
from sides import Side

OURS = "imagegen"
PLAIN, DEFAULTS, OPENVINO, SDCPP, FASTSD = (
    "diffusers",
    "diffusers' defaults, fp32",
    "OpenVINO",
    "stable-diffusion.cpp",
    "FastSD CPU's setup",
)
SETUP = {
    f"{PLAIN}, bf16": "diffusers, 'Accelerate inference': a pipeline in bf16",
    f"{PLAIN}, fp16": "diffusers, 'Accelerate inference': a pipeline in fp16",
    DEFAULTS: "diffusers, 'Load pipelines': without a dtype, a pipeline loads in fp32",
    OPENVINO: "Optimum Intel, 'OpenVINO': static shapes; OpenVINO, 'High-level Performance Hints': `LATENCY`, and "
    "'CPU Device': bf16 by itself",
    FASTSD: "FastSD CPU's own code for OpenVINO: as OpenVINO, with TAESD instead of the VAE",
    SDCPP: "stable-diffusion.cpp, 'performance.md': no flash attention on a CPU; a thread for each physical core",
}
"""Each peer's own document that says how to set it up."""


@dataclass(frozen=True)
class Candidate:
    """A program to measure.

    Attributes:
        name: Its name in the tables.
        side: The function that loads it in its process, and its arguments.
        memory: The memory it needs, in weights of two bytes.
        missing: The reason why it cannot run here; None if it can.
        settings: imagegen's settings; None for a peer.
    """

    name: str
    side: Side
    memory: float
    missing: str | None = None
    settings: Mapping[str, Any] | None = field(default=None, hash=False)


def programs(made: Checkpoint, device: str, options: list[str], *, tiny: bool = False) -> list[Candidate]:
    """Return imagegen, imagegen with each of the options, and the peers for the device.

    Args:
        made: The checkpoint to draw with.
        device: ``cpu`` or ``cuda``.
        options: Settings of imagegen, each as ``name=value`` or several with a comma between.
        tiny: Whether the checkpoint is tiny.
    """
    model, on_cpu = str(made.folder), device == "cpu"
    converted = str(made.folder.with_name(f"{made.family}-openvino"))
    tables: dict[str, dict[str, Any]] = {OURS: {}}
    if on_cpu:
        tables[f"{OURS}, openvino"] = {"backend": "openvino"}
    tables |= {f"{OURS}, {option}": dict(pair.split("=", 1) for pair in option.split(",")) for option in options}
    listed = [
        Candidate(
            name,
            (_program, (Ours, model, device, settings)),
            memory=2.6 if settings.get("backend") == "openvino" else 1.3,
            missing=_missing("imagegen-openvino") if settings.get("backend") == "openvino" else None,
            settings=settings,
        )
        for name, settings in tables.items()
    ]
    dtype = "bf16" if on_cpu else "fp16"
    listed += [
        Candidate(f"{PLAIN}, {dtype}", (_program, (Diffusers, model, device, dtype)), 1.3),
        Candidate(DEFAULTS, (_program, (Diffusers, model, device, "fp32")), 2.3),
    ]
    if on_cpu:
        given = (model, str(made.tiny_decoder), converted)
        listed += [
            Candidate(name, (_program, (OpenVino, *given, name == FASTSD)), 2.2, _missing("openvino"))
            for name in (OPENVINO, FASTSD)
        ]
        without = "stable-diffusion.cpp takes no tiny checkpoint" if tiny else _missing("cyllama")
        listed.append(Candidate(SDCPP, (_program, (StableDiffusionCpp, str(made.file))), 1.6, without))
    return listed


def _program(kind: Any, *arguments: Any) -> Any:
    """In a side's process: load a program, and return its work, a method by name."""
    from peak_memory import PeakMemory

    program = kind(*arguments)

    def work(method: str, *given: Any) -> dict[str, float] | None:
        with PeakMemory(seconds=0.05) as memory:
            seconds: dict[str, float] | None = getattr(program, method)(*given)
        return seconds and {**seconds, **{f"{kind} memory": peak for kind, peak in memory.peak.items()}}

    return work


def _missing(distribution: str) -> str | None:
    try:
        version(distribution)
    except PackageNotFoundError:
        return f"{distribution} is not installed"
    return None
