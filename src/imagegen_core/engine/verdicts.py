"""The verdicts of earlier proofs on this machine, in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Hashable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from imagegen_core.distributions import installed_version
from imagegen_core.engine.batch_size import BatchSize
from imagegen_core.worker import HasNumerics

logger = logging.getLogger(__name__)

_FORMAT = 1
_KEPT_FILES = 500


class VerdictCache:
    """Remembers the proven and refused numbers of rows of one worker's groups.

    A verdict counts only for an equal numerics plan: device, driver, libraries, choices and shape of the network. Each
    group has a file of its own, replaced at once. Two processes may at most lose a verdict of each other.
    """

    def __init__(self, worker: object, folder: Path | None = None) -> None:
        """Prepare the key of the worker.

        Args:
            worker: The worker; verdicts of a worker without a numerics plan are not kept.
            folder: The folder of the verdicts; None is ``imagegen/proofs`` in the user's cache folder.
        """
        self._folder = folder or user_cache_path("imagegen") / "proofs"
        has_folder = self._folder.is_absolute()  # without a home folder, the path would begin with ~
        self._worker = _key(worker) if has_folder and isinstance(worker, HasNumerics) else None

    def restore(self, group: Hashable, size: BatchSize) -> None:
        """Enter the known verdicts of a group into its batch size; ignore a missing or damaged file."""
        if self._worker is None or not size.exact:
            return
        path, key = self._place(group)
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            proven, refused = ({int(rows) for rows in known[verdict]} for verdict in ("proven", "refused"))
        except OSError as error:
            logger.debug("No proofs in %s: %s", path, error)
            return
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("The proofs in %s are damaged (%s): the batches are proven again", path, error)
            return
        if known.get("key") == key:
            size.proven |= proven
            size.refused |= refused

    def keep(self, group: Hashable, size: BatchSize) -> None:
        """Write the verdicts of a group; without write access, the next process proves them again."""
        if self._worker is None or not size.exact or not (size.proven or size.refused):
            return
        path, key = self._place(group)
        known = {"key": key, "proven": sorted(size.proven), "refused": sorted(size.refused)}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
            part.write_text(json.dumps(known, indent=1), encoding="utf-8")
            part.replace(path)
            self._forget_oldest()
        except OSError as error:
            logger.debug("Cannot keep the proofs in %s: %s", self._folder, error)

    def _place(self, group: Hashable) -> tuple[Path, Any]:
        key = {**(self._worker or {}), "group": repr(group)}
        text = json.dumps(key, sort_keys=True)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json", json.loads(text)

    def _forget_oldest(self) -> None:
        files = [*self._folder.glob("*.json")]
        if len(files) > _KEPT_FILES:
            files.sort(key=lambda file: file.stat().st_mtime)
            for file in files[: len(files) - _KEPT_FILES]:
                file.unlink(missing_ok=True)


def _key(worker: HasNumerics) -> dict[str, Any]:
    module = type(worker).__module__
    distribution = module.partition(".")[0].replace("_", "-")
    return {
        "format": _FORMAT,
        "worker": f"{module}.{type(worker).__qualname__}",
        "versions": [installed_version("imagegen-core"), installed_version(distribution)],
        "plan": asdict(worker.numerics),
    }
