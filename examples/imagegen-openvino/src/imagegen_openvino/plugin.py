"""The plugin's hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imagegen_core import Backend, Format, hookimpl
from imagegen_openvino.folder_format import FORMAT

if TYPE_CHECKING:
    import typer

requires_contract = "1.0"

BACKEND = Backend(
    name="openvino",
    summary="Stable Diffusion and SDXL exported to OpenVINO, LCM",
    worker="imagegen_openvino.worker:OpenVinoWorker",
    default_size="512x512",
    architectures=("sd15", "sdxl"),
    formats=(FORMAT.name,),
    without=(
        "clip_skip",
        "style_lora",
        "schedule",
        "guidance_rescale",
        "eta",
        "s_churn",
        "s_tmin",
        "s_tmax",
        "s_noise",
        "image",
        "variation",
        "micro_conditioning",
        "hires",
    ),
)


@hookimpl
def imagegen_backends() -> list[Backend]:
    """Return the OpenVINO backend: it draws with folders in its own format alone."""
    return [BACKEND]


@hookimpl
def imagegen_formats() -> list[Format]:
    """Return the format of exported folders, so that a folder selects the backend."""
    return [FORMAT]


@hookimpl
def imagegen_cli(app: typer.Typer) -> None:
    """Add the export command."""
    from imagegen_openvino.command import group

    app.add_typer(group(), name="openvino")
