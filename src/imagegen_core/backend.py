"""The description by which a plugin offers a backend, and what it means to import one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from imagegen_core.errors import PluginError

if TYPE_CHECKING:
    from imagegen_core.worker import Worker


@dataclass(frozen=True, slots=True)
class Backend:
    """A way to draw, described without importing what it takes.

    Attributes:
        name: What the configuration calls it, such as ``sdxl``; its upper-case form prefixes the
            backend's own environment variables (``SDXL_MODEL``).
        summary: One line for ``imagegen plugins list``.
        worker: ``module:Class`` of its `Worker`, imported on first use.
        default_size: ``WIDTHxHEIGHT`` drawn where neither request nor checkpoint says one.
        architectures: The checkpoint families it loads, as `imagegen_core.models.inspect` names them.
    """

    name: str
    summary: str
    worker: str
    default_size: str
    architectures: tuple[str, ...] = ()

    @property
    def environment_prefix(self) -> str:
        """What this backend's own variables begin with."""
        return self.name.upper().replace("-", "_")

    def load(self) -> Callable[..., Worker]:
        """Import the worker class.

        Raises:
            PluginError: The module does not import, or has no such class.
        """
        module_name, _, class_name = self.worker.partition(":")
        try:
            return getattr(import_module(module_name), class_name)  # type: ignore[no-any-return]
        except (ImportError, AttributeError) as error:
            raise PluginError(
                f"Backend '{self.name}' cannot be used, its worker {self.worker} does not import: {error}. "
                "`imagegen plugins doctor` says what is missing"
            ) from error
