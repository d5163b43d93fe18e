"""Making torchvision import beside a torch that its compiled operators are not made for.

diffusers, transformers and spandrel import torchvision where it is installed, and use its Python parts alone. PyPI's
wheels for Linux are made for CUDA. Beside a CPU torch their operators do not load. torchvision allows for that, but
then fails to describe two of them to torch's compiler (https://github.com/pytorch/vision/issues/9085).
"""

from __future__ import annotations

import threading
from importlib import import_module

import torch

_DESCRIBED = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_importing = threading.Lock()


def make_torchvision_importable() -> None:
    """Import torchvision where it is installed; where its operators do not load, declare those it describes.

    A declared operator has no kernel: calling one raises, as torchvision itself says it cannot compute.

    Raises:
        Exception: What importing torchvision raises for another reason.
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
