"""What this plugin offers."""

from __future__ import annotations

from pathlib import Path

from imagegen_core import NamedModel, hookimpl

CHECKPOINT = Path(__file__).parent / "checkpoint"


@hookimpl
def imagegen_models() -> list[NamedModel]:
    """The checkpoint beside this file."""
    return [
        NamedModel(
            name="demo",
            summary="coloured shapes and landscapes at 256x256, 4 LCM steps",
            path=CHECKPOINT,
            fallback=True,
        )
    ]
