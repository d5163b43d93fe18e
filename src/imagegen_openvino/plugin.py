"""The plugin's hooks."""

from __future__ import annotations

from imagegen_core import Backend, hookimpl

requires_contract = "1.0"

BACKEND = Backend(
    name="openvino",
    summary="Stable Diffusion 1.5, 2.x and SDXL, computed by OpenVINO",
    worker="imagegen_openvino.worker:make_worker",
    default_size="512x512",
    architectures=("sd15", "sd2", "sdxl"),
    priority=-1,  # only where the settings ask for it: torch's backends draw without a conversion
)


@hookimpl
def imagegen_backends() -> list[Backend]:
    """Return the OpenVINO backend."""
    return [BACKEND]
