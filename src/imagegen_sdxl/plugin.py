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
REFINER_BACKEND = Backend(
    name="sdxl-refiner",
    summary="Stable Diffusion XL's refiner",
    worker="imagegen_sdxl.refiner:SDXLRefinerWorker",
    default_size="1024x1024",
    architectures=("sdxl-refiner",),
)


@hookimpl
def imagegen_backends() -> list[Backend]:
    """Return the backends of SDXL and of its refiner."""
    return [BACKEND, REFINER_BACKEND]


@hookimpl
def imagegen_families() -> list[Family]:
    """Return the families of SDXL and of its refiner."""
    return [SDXL, REFINER]
