"""The plugin's hooks."""

from __future__ import annotations

from imagegen_core import Backend, Family, hookimpl
from imagegen_flux.family import FLUX

requires_contract = "1.0"

BACKEND = Backend(
    name="flux",
    summary="FLUX.1 dev and schnell",
    worker="imagegen_flux.worker:FluxWorker",
    default_size="1024x1024",
    architectures=(FLUX.name,),
    # It is distilled, so it never runs for a negative prompt. Of CLIP, it takes only the pooled state.
    without=("negative_prompt", "guidance_rescale", "clip_skip", "micro_conditioning", "refiner"),
)


@hookimpl
def imagegen_backends() -> list[Backend]:
    """Return the backend of FLUX.1."""
    return [BACKEND]


@hookimpl
def imagegen_families() -> list[Family]:
    """Return the family of FLUX.1."""
    return [FLUX]
