"""Arguments of a pipeline's own call, by its signature."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any

import torch

from imagegen_core import InvalidRequestError, ModelLoadError, ResolvedRequest, Size
from imagegen_diffusers.plugin import BACKEND

logger = logging.getLogger(__name__)

_NEEDED = ("prompt", "num_inference_steps", "generator")
_ADVICE = "this backend draws with pipelines from text to a picture alone; name another model"
_OF_VIDEOS = ("num_frames", "video_length", "frames")
# Request fields that not every pipeline takes, with the values that change nothing.
_OPTIONAL = {"negative_prompt": None, "clip_skip": 0, "guidance_rescale": 0.0}


def check_call(pipeline: type, folder: Path) -> None:
    """Check that a pipeline draws a picture from a prompt, a number of steps and a seed.

    Args:
        pipeline: The pipeline's class.
        folder: The folder that names it.

    Raises:
        ModelLoadError: Its call takes something else.
    """
    known = inspect.signature(pipeline.__call__).parameters
    called = f"{folder} is a {pipeline.__name__}"
    if missing := [name for name in _NEEDED if name not in known]:
        raise ModelLoadError(f"{called}, whose call takes no {missing[0]}: {_ADVICE}")
    for name, parameter in known.items():
        is_required = parameter.default is parameter.empty and parameter.kind != parameter.VAR_KEYWORD
        if is_required and name not in ("self", "prompt"):
            raise ModelLoadError(f"{called}, whose call needs {name}, too: {_ADVICE}")
    if any(name in known for name in _OF_VIDEOS):
        raise ModelLoadError(f"{called}, which makes videos: {_ADVICE}")


class PipelineCall:
    """The call of a text-to-image pipeline.

    Attributes:
        parameters: The names of its parameters.
        guidance: The parameter for the guidance scale; None if there is none.
    """

    def __init__(self, pipe: Any) -> None:
        """Read the signature of a loaded pipeline."""
        self._name = type(pipe).__name__
        self.parameters = frozenset(inspect.signature(type(pipe).__call__).parameters)
        self.guidance = self._guidance(pipe)
        self._multiple = _multiple(pipe)

    def resolve(self, request: object, native_size: str) -> ResolvedRequest:
        """Check a request, and refuse the fields that this pipeline does not take.

        Raises:
            InvalidRequestError: A value is out of range, or the pipeline does not take its field.
        """
        resolved = BACKEND.resolve(request, native_size)
        for field, unset in _OPTIONAL.items():
            if field not in self.parameters and getattr(resolved, field) != unset:
                self._refuse(field, getattr(resolved, field), "its call does not take it; leave it out")
        if self.guidance is None and resolved.guidance_scale > 1:
            self._refuse("guidance_scale", resolved.guidance_scale, "its call does not take it; leave it out")
        if "height" not in self.parameters and resolved.size != Size.parse(native_size):
            self._refuse("size", str(resolved.size), f"it draws only {native_size}")
        if resolved.size.width % self._multiple or resolved.size.height % self._multiple:
            self._refuse("size", str(resolved.size), f"expected multiples of {self._multiple} pixels")
        if resolved.negative_prompt and resolved.guidance_scale <= 1:
            logger.warning("The negative prompt has no effect: it needs a guidance scale above 1.0")
        return resolved

    def arguments(self, request: ResolvedRequest) -> dict[str, Any]:
        """Return the arguments for a request that `resolve` has checked, without those for its progress."""
        given: dict[str, Any] = {
            "prompt": request.prompt,
            "num_inference_steps": request.steps,
            "generator": torch.Generator("cpu").manual_seed(request.seed),
            "output_type": "np",
            "height": request.size.height,
            "width": request.size.width,
        }
        if self.guidance is not None:
            given[self.guidance] = request.guidance_scale
        for field, unset in _OPTIONAL.items():
            if getattr(request, field) != unset:
                given[field] = getattr(request, field)
        if self.guidance == "true_cfg_scale" and request.guidance_scale > 1:
            given.setdefault("negative_prompt", "")  # without it, these pipelines ignore the scale
        return {name: value for name, value in given.items() if name in self.parameters}

    def _guidance(self, pipe: Any) -> str | None:
        """Choose the parameter: ``guidance_scale`` of some pipelines is an input of distilled networks alone."""
        networks = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
        is_distilled = any(getattr(getattr(part, "config", None), "guidance_embeds", False) for part in networks)
        names = ("guidance_scale",) if is_distilled else ("true_cfg_scale", "guidance_scale")
        return next((name for name in names if name in self.parameters), None)

    def _refuse(self, field: str, value: object, reason: str) -> None:
        raise InvalidRequestError(f"Invalid {field} {str(value)!r} for a {self._name}: {reason}", field)


def _multiple(pipe: Any) -> int:
    """Return the number whose multiples a side may have; a pipeline would round another side without a word."""
    processor = getattr(pipe, "image_processor", None)
    return int(getattr(getattr(processor, "config", None), "vae_scale_factor", 1))
