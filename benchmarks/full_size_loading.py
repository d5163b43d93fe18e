"""Loading at full size: seconds and peak memory, each load in a new process with the file in the page cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from full_size_ours import settings_of
from peak_memory import PeakMemory

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

        diffusers.utils.logging.set_verbosity_error()
        given = {"torch_dtype": getattr(torch, dtype), "local_files_only": True}
        if Path(model).is_dir():
            return diffusers.DiffusionPipeline.from_pretrained(model, **given).to(device)
        index = diffusers.DiffusionPipeline.load_config(base)
        pipe = getattr(diffusers, index["_class_name"]).from_single_file(model, config=base, **given)
        # With transformers 5, it leaves part of the text encoders without weights.
        return pipe if device == "cpu" else pipe.unet.to(device) and pipe.vae.to(device) and pipe

    return _measured(load, Path(model))


def _measured(load: Callable[[], Any], model: Path) -> Callable[[], dict[str, float]]:
    """Return a function that loads, then reads each weight, and returns the seconds and the bytes."""
    import diffusers  # noqa: F401 - libraries are not part of the load

    import imagegen_core.diffusion  # noqa: F401
    from imagegen_core import Registry

    Registry.discover()
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
