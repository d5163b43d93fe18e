"""Loading at full size: seconds and peak memory, each load in a new process with the file in the page cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from full_size_ours import settings_of
from peak_memory import PeakMemory
from plain_pipeline import silence

_BLOCK = 2**24


def ours(model: str, base: str, device: str, settings: Mapping[str, Any]) -> Callable[[], dict[str, float]]:
    """Return a measured load of imagegen's worker; `base` has the tokenizers for a single file."""

    def load() -> Any:
        from imagegen_core import load_worker

        worker: Any = load_worker(settings=settings_of(model, device, {"base_model": base, **settings}))
        return getattr(worker, "pipe", None)

    return _measured(load, Path(model))


def diffusers(model: str, base: str, device: str, dtype: str) -> Callable[[], dict[str, float]]:
    """Return a measured load by diffusers: ``from_single_file`` for a file, else ``from_pretrained``."""

    def load() -> Any:
        import diffusers
        import torch

        local = {"local_files_only": True}
        if Path(model).is_dir():
            return diffusers.DiffusionPipeline.from_pretrained(model, dtype=getattr(torch, dtype), **local).to(device)
        index = diffusers.DiffusionPipeline.load_config(base)
        load_file = getattr(diffusers, index["_class_name"]).from_single_file
        pipe = load_file(model, config=base, torch_dtype=getattr(torch, dtype), **local)
        # With transformers 5, it leaves part of the text encoders without weights, so these cannot move.
        for network in (pipe.unet, pipe.vae):
            network.to(device)
        return pipe

    return _measured(load, Path(model))


def _measured(load: Callable[[], Any], model: Path) -> Callable[[], dict[str, float]]:
    """Return a function that loads, then reads each weight, and returns the seconds and the bytes."""
    _import_libraries()
    _read(model)

    def work() -> dict[str, float]:
        with PeakMemory() as memory:
            began = time.perf_counter()
            pipe = load()
            loaded = time.perf_counter()
            _touch(pipe)
            used = time.perf_counter()
        return {"load": loaded - began, "first use": used - began} | dict(memory.growth)

    return work


def _import_libraries() -> None:
    """Import the programs' modules, which are no part of a load."""
    import diffusers

    from imagegen_core import Registry

    silence()
    for name in ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "AutoencoderKL", "UNet2DConditionModel"):
        getattr(diffusers, name)
    for name, backend in Registry.discover().backends.items():
        if name in {"sd15", "sdxl", "openvino"}:
            backend.load()


def _read(model: Path) -> None:
    """Read the weights' files once, so that a load does not measure the disk."""
    for file in [model] if model.is_file() else model.rglob("*.safetensors"):
        with file.open("rb", buffering=0) as opened:
            while opened.read(_BLOCK):
                pass


def _touch(pipe: Any) -> None:
    """Read every weight: a mapped weight comes from the file at its first use."""
    import torch

    parts = pipe.components.values() if pipe is not None else []
    for network in (part for part in parts if isinstance(part, torch.nn.Module)):
        for tensor in network.state_dict().values():
            if not tensor.is_meta:
                tensor.sum().item()
