"""The plugin's hooks."""

from __future__ import annotations

from imagegen_core import Backend, Family, hookimpl
from imagegen_sd3.family import SD3

requires_contract = "1.0"

BACKEND = Backend(
    name="sd3",
    summary="Stable Diffusion 3 and 3.5",
    worker="imagegen_sd3.worker:StableDiffusion3Worker",
    default_size="1024x1024",
    architectures=(SD3.name,),
    without=("micro_conditioning", "refiner"),
)


@hookimpl
def imagegen_backends() -> list[Backend]:
    """Return the backend of Stable Diffusion 3."""
    return [BACKEND]


@hookimpl
def imagegen_families() -> list[Family]:
    """Return the family of Stable Diffusion 3."""
    return [SD3]
