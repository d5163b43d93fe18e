"""Upscale pictures on a replica."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, cast

from imagegen_core.hosting.upscaling import Compute, Enlarged, Format, Upscalers
from imagegen_core.plugins.registry import Registry
from imagegen_core.settings import Settings


class RemoteUpscalers(Upscalers):
    """The upscalers of the replicas; names and size limits are checked locally.

    Attributes:
        together: Maximum number of replicas.
    """

    def __init__(self, settings: Settings, registry: Registry, call: Compute) -> None:
        """Find the configured upscaler; load none.

        Args:
            settings: The limits and the default upscaler.
            registry: The plugins.
            call: Calls a replica's method by name, with arguments; cancels the call when ``until`` is done.

        Raises:
            ModelNotFoundError: The configured upscaler does not exist.
        """
        super().__init__(settings, registry, call)
        self._call = call
        self.together = settings.max_replicas or settings.replicas

    def enlarge(
        self, source: bytes, passes: int, form: Format, quality: int, until: Future[Any] | None = None
    ) -> Enlarged:
        """See `Upscalers.enlarge`."""
        return cast("Enlarged", self._call("enlarge", source, passes, form, quality, until=until))

    def enlarge_to(
        self, source: bytes, wanted: tuple[int, int], name: str, *, crop: bool, until: Future[Any] | None = None
    ) -> bytes:
        """See `Upscalers.enlarge_to`."""
        return cast("bytes", self._call("enlarge_to", source, wanted, name, crop, until=until))
