"""Make torchvision importable with a torch that its compiled operators were not built for.

diffusers, transformers and spandrel import torchvision where it is installed, and use only its Python parts. PyPI's
wheels for Linux are built for CUDA. With a CPU torch, their operators do not load. torchvision allows for that, but
then fails to describe two operators to torch's compiler (https://github.com/pytorch/vision/issues/9085).
"""

from __future__ import annotations

import threading
from importlib import import_module

import torch

_DESCRIBED = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_importing = threading.Lock()


def make_torchvision_importable() -> None:
    """Import torchvision if it is installed; declare its operators if they do not load.

    A declared operator has no kernel: a call raises an error, just as torchvision's own operators do then.

    Raises:
        Exception: The import of torchvision failed for another reason.
    """
    with _importing:
        try:
            import_module("torchvision")
        except ModuleNotFoundError as error:
            if error.name != "torchvision":
                raise
        except RuntimeError as error:
            if "operator torchvision::" not in str(error):
                raise
            for operator in _DESCRIBED:
                torch.library.define(f"torchvision::{operator}", _SCHEMA)
            import_module("torchvision")
