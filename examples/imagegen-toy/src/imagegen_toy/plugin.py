"""The plugin's hooks."""

from imagegen_core import Backend, hookimpl

requires_contract = "1.0"

BACKEND = Backend(
    name="toy",
    summary="clouds of colour, for want of a model",
    worker="imagegen_toy.worker:ToyWorker",
    default_size="256x256",
    without=(
        "scheduler",
        "clip_skip",
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
    """Return the toy backend."""
    return [BACKEND]
