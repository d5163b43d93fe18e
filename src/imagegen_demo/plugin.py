"""The plugin's hooks."""

from __future__ import annotations

from pathlib import Path

from imagegen_core import NamedModel, StyleDef, UpscalerDef, hookimpl

requires_contract = "1.0"

FOLDER = Path(__file__).parent
CHECKPOINT = FOLDER / "checkpoint"


@hookimpl
def imagegen_models() -> list[NamedModel]:
    """Return the checkpoint in this package."""
    return [
        NamedModel(
            name="demo",
            summary="coloured shapes and landscapes at 256x256, 4 LCM steps",
            path=CHECKPOINT,
            fallback=True,
        )
    ]


@hookimpl
def imagegen_styles() -> list[StyleDef]:
    """Return the checkpoint's style."""
    return [
        StyleDef(
            id="storybook",
            title="pale colours on cream paper, and dark outlines",
            lora_path=str(FOLDER / "storybook.safetensors"),
            adapter_name="storybook",
            levels=(0.4, 0.7, 1.0),
        )
    ]


@hookimpl
def imagegen_upscalers() -> list[UpscalerDef]:
    """Return the checkpoint's upscaling network."""
    return [
        UpscalerDef(
            name="demo",
            summary="doubles flat pictures with hard edges, such as the demo model's",
            scale=2,
            weights=FOLDER / "upscaler.safetensors",
        )
    ]
