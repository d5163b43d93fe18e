"""The plugin's hooks."""

from __future__ import annotations

from imagegen_core import Backend, Family, hookimpl
from imagegen_sdxl.families import REFINER, SDXL

requires_contract = "1.0"

BACKEND = Backend(
    name="sdxl",
    summary="Stable Diffusion XL, LCM",
    worker="imagegen_sdxl.worker:DiffusersSDXLCudaWorker",
    default_size="1024x1024",
    architectures=("sdxl",),
)


@hookimpl
def imagegen_backends() -> list[Backend]:
    """Return the SDXL backend."""
    return [BACKEND]


@hookimpl
def imagegen_families() -> list[Family]:
    """Return the families of SDXL and of its refiner, which no backend draws with yet."""
    return [SDXL, REFINER]
