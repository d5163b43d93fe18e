"""The plugin's hooks."""

from __future__ import annotations

from imagegen_core import Backend, hookimpl

requires_contract = "1.0"

BACKEND = Backend(
    name="sdcpp",
    summary="stable-diffusion.cpp: GGUF and safetensors files, without torch",
    worker="imagegen_sdcpp.worker:StableDiffusionCppWorker",
    default_size="512x512",
    architectures=("sd15", "sd2", "sdxl", "sd3", "flux"),
    formats=("safetensors", "gguf"),
    priority=-10,  # a backend that draws a family by torch comes first
    without=(
        "scheduler",
        "style_lora",
        "guidance_rescale",
        "image",
        "variation",
        "micro_conditioning",
        "hires",
        "refiner",
    ),
)


@hookimpl
def imagegen_backends() -> list[Backend]:
    """Return the backend: it declares no family, since other plugins declare those it draws."""
    return [BACKEND]
