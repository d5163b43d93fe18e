"""Stable Diffusion XL for imagegen."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagegen_sdxl.refiner import SDXLRefinerWorker as SDXLRefinerWorker
    from imagegen_sdxl.worker import DiffusersSDXLCudaWorker as DiffusersSDXLCudaWorker

__all__ = ["DiffusersSDXLCudaWorker", "SDXLRefinerWorker"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # Every command imports the plugin module of this package, so torch waits for the worker's first use.
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from imagegen_sdxl import refiner, worker

        return getattr(refiner if name == "SDXLRefinerWorker" else worker, name)
