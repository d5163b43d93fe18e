"""From a mode's settings to an engine that draws with its model."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from imagegen_core.engine import LocalEngine, Pool
from imagegen_core.errors import ImagegenError
from imagegen_core.models.locate import locate
from imagegen_core.plugins.registry import Registry
from imagegen_core.settings import Settings
from imagegen_core.shortcuts import load_worker
from imagegen_core.worker import Neighbourly, WarmingUp, Worker

_WEIGHTS = (".safetensors", ".ckpt", ".bin")


def load_engine(settings: Settings, beside: Any | None) -> LocalEngine | Pool:
    """The engine, or a pool of several, that draws with the configured model.

    Args:
        settings: Which model, and how many copies of it.
        beside: An engine that draws at the moment, on whose threads the new one computes; None where there is none.

    Raises:
        ImagegenError: The model cannot be loaded.
    """
    others = beside.workers if isinstance(beside, LocalEngine | Pool) else ()
    with ExitStack() as made:
        engines = []
        for number in range(settings.num_workers):
            worker = load_worker(settings=settings)
            if number < len(others):
                _join(worker, others[number])
            engine = LocalEngine(worker, batching=settings.batching, queue_limit=settings.queue_max, previews=True)
            made.callback(engine.close, drain=False)  # where the next one fails
            engines.append(engine)
        made.pop_all()
    return engines[0] if len(engines) == 1 else Pool(engines, settings.queue_max)


def weights_bytes(settings: Settings, registry: Registry) -> int:
    """What the configured model's files take, which is about what it will; 0 where they are not found."""
    if settings.model is None:
        return 0
    try:
        path = locate(settings.model, settings.model_root, registry.models)
        return settings.num_workers * sum(file.stat().st_size for file in _weights(path))
    except (ImagegenError, OSError):
        return 0  # loading it says what is wrong


def _weights(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.suffix in _WEIGHTS]


def _join(worker: Worker, other: Worker) -> None:
    """Have two workers compute in turns; what takes long before the first picture is done before."""
    if isinstance(worker, WarmingUp):
        worker.warm_up()
    if isinstance(worker, Neighbourly):
        worker.compute_beside(other)
