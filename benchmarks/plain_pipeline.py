"""The plain diffusers pipeline that programs are compared with, and Pillow's PNG encoder."""

from __future__ import annotations

import io
from typing import Any

_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def plain_pipeline(checkpoint: str, dtype: str | None, device: str = "cpu") -> Any:
    """Return the pipeline of diffusers' documentation for LCM models; its default is fp32."""
    import diffusers
    import torch

    silence()
    pipe = diffusers.DiffusionPipeline.from_pretrained(
        checkpoint, dtype=getattr(torch, _DTYPES[dtype or "fp32"]), local_files_only=True
    )
    pipe.scheduler = diffusers.LCMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def encoded(image: Any) -> bytes:
    """Return a Pillow image as a PNG."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def silence() -> None:
    """Turn off the libraries' progress bars, and their warnings about random checkpoints."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
