"""Load an engine from a mode's settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from imagegen_core.engine import Engine, LocalEngine, Pool
from imagegen_core.errors import ImagegenError, SettingsError
from imagegen_core.models.locate import locate
from imagegen_core.plugins.registry import Registry
from imagegen_core.settings import Settings
from imagegen_core.shortcuts import load_worker
from imagegen_core.worker import ReportsMemory, SharesComputeThread, WarmsUp, Worker

_WEIGHTS = (".safetensors", ".ckpt", ".bin")


def load_engine(settings: Settings, beside: Sequence[Engine] = ()) -> LocalEngine | Pool:
    """Load the configured model, and return its engine, or a pool for several copies.

    Args:
        settings: The model, the devices and the number of copies.
        beside: The running engines; on each device, the new engine shares the compute threads of the first of them.

    Raises:
        ImagegenError: The model cannot be loaded.
    """
    others = _partners(beside)
    workers = []
    for placed in placements(settings):
        worker = load_worker(settings=placed)
        if partner := next((running for running in others if _device(running) == _device(worker)), None):
            others.remove(partner)
            _join(worker, partner)
        workers.append(worker)
    if len(workers) == 1:
        return LocalEngine(workers[0], batching=settings.batching, queue_limit=settings.queue_max, previews=True)
    return Pool(workers, batching=settings.batching, queue_limit=settings.queue_max, previews=True)


def placements(settings: Settings) -> list[Settings]:
    """Return the settings of each copy of the model, with its device.

    Raises:
        SettingsError: There are more devices than copies.
    """
    devices = len(settings.devices) or 1
    copies = settings.num_workers or devices
    if copies < devices:
        raise SettingsError(
            f"{settings.source('num_workers')}={copies} is fewer than the {devices} devices of "
            f"{settings.source('device')}={settings.device}, each of which needs a copy of the model: raise it to "
            f"{devices}, unset it for one a device, or name fewer devices"
        )
    return [settings.for_device(number) for number in range(copies)]


def weights_bytes(settings: Settings, registry: Registry) -> int:
    """Estimate the model's bytes on a device from its weight files; return 0 if the files are missing."""
    if settings.model is None:
        return 0
    try:
        path = locate(settings.model, settings.model_root, registry.models)
        copies = max(Counter(placed.device for placed in placements(settings)).values())
        size = sum(file.stat().st_size for file in _weights(path))
        return copies * (size if settings.memory is None else min(size, settings.memory))
    except (ImagegenError, OSError):
        return 0  # the load reports the error


def _weights(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.suffix in _WEIGHTS]


def _device(worker: Worker) -> str | None:
    """Return an identifier of the worker's device, or None if the worker does not report it."""
    return worker.device_memory().device if isinstance(worker, ReportsMemory) else None


def _partners(beside: Sequence[Engine]) -> list[Worker]:
    """Return the workers of the first engine on each device; an engine of another kind keeps its threads to itself."""
    chosen: dict[str | None, tuple[int, list[Worker]]] = {}
    for number, engine in enumerate(engine for engine in beside if isinstance(engine, LocalEngine | Pool)):
        for worker in engine.workers:
            first, partners = chosen.setdefault(_device(worker), (number, []))
            if first == number:
                partners.append(worker)
    return [worker for _, partners in chosen.values() for worker in partners]


def _join(worker: Worker, other: Worker) -> None:
    """Let two workers compute in turns; warm up first, because the warm-up would block the other worker."""
    if isinstance(worker, WarmsUp):
        worker.warm_up()
    if isinstance(worker, SharesComputeThread):
        worker.compute_beside(other)
