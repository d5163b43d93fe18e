"""Stable Diffusion 3 for imagegen."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagegen_sd3.worker import StableDiffusion3Worker as StableDiffusion3Worker

__all__ = ["StableDiffusion3Worker"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # Every command imports the plugin module of this package, so torch waits for the worker's first use.
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from imagegen_sd3 import worker

        return getattr(worker, name)
