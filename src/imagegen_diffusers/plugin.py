"""The plugin's hooks."""

from __future__ import annotations

from imagegen_core import Backend, Format, hookimpl
from imagegen_diffusers.folder import describe

requires_contract = "1.0"

FORMAT = Format(
    name="diffusers-pipeline",
    title="diffusers pipeline",
    package="imagegen-diffusers",
    describe=describe,
    is_fallback=True,
    folder_marks=("model_index.json",),
)
BACKEND = Backend(
    name="diffusers",
    summary="any other diffusers pipeline from text to a picture, such as PixArt, Sana or Kandinsky",
    worker="imagegen_diffusers.worker:DiffusersPipelineWorker",
    default_size="1024x1024",
    architectures=("*",),
    formats=(FORMAT.name,),
    priority=-100,
    without=("scheduler", "style_lora", "image", "variation", "micro_conditioning", "hires", "refiner"),
)


@hookimpl
def imagegen_backends() -> list[Backend]:
    """Return the backend of all pipelines without a backend of their own."""
    return [BACKEND]


@hookimpl
def imagegen_formats() -> list[Format]:
    """Return the format of a diffusers-format folder of any pipeline."""
    return [FORMAT]
