"""A description that imports torch."""

import torch

from imagegen_core import Backend, hookimpl


@hookimpl
def imagegen_backends() -> list[Backend]:
    """Return the toy under another name."""
    size = int(torch.tensor(64))
    without = ("scheduler", "clip_skip", "style_lora")
    return [Backend("with-torch", "heavy to describe", "imagegen_toy.worker:ToyWorker", f"{size}x{size}", (), without)]
