"""The plugin's hooks."""

from __future__ import annotations

from imagegen_core import Backend, Family, hookimpl
from imagegen_sd15.families import SD2, SD15

requires_contract = "1.0"

BACKEND = Backend(
    name="sd15",
    summary="Stable Diffusion 1.5 and 2.x, LCM",
    worker="imagegen_sd15.worker:DiffusersCudaWorker",
    default_size="512x512",
    architectures=("sd15", "sd2"),
    without=("micro_conditioning",),
)


@hookimpl
def imagegen_backends() -> list[Backend]:
    """Return the backend of SD 1.x and 2.x."""
    return [BACKEND]


@hookimpl
def imagegen_families() -> list[Family]:
    """Return the families of SD 1.x and 2.x."""
    return [SD15, SD2]
