"""The worker for any diffusers pipeline: a picture is one call of the pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imagegen_core import (
    CallbackWorker,
    GenerateRequest,
    ImagegenError,
    InvalidRequestError,
    ModelLoadError,
    ModelNotFoundError,
    NumericsPlan,
    Picture,
    Progress,
    Recipe,
    Registry,
    ResolvedRequest,
    Settings,
    SettingsError,
    Size,
    encode_png,
    locate,
    to_text,
)
from imagegen_core.diffusion import OnDevice, device_numerics, load_pretrained, memory_errors, pipeline_class, pool
from imagegen_diffusers.call import PipelineCall, check_call
from imagegen_diffusers.folder import native_size, stores_bf16
from imagegen_diffusers.plugin import BACKEND
from imagegen_diffusers.previews import Previewer, as_picture

_PACKAGE = "imagegen-diffusers"
_UNSUPPORTED_SETTINGS = (
    "prediction",
    "vae_path",
    "fast_decode",
    "preview_decode",
    "base_model",
    "embeddings_root",
    "compile",
    "cuda_graphs",
    "enable_xformers",
    "attention_slicing",
    "vae_dtype",
    "vae_channels_last",
    "int8",
    "vae_tiling",
    "memory",
    "weight_storage",
)
_STEP_END = "callback_on_step_end"


class DiffusersPipelineWorker(CallbackWorker, OnDevice):
    """Draws with the pipeline that a folder names, by the pipeline's own call.

    A request field is a parameter of the call; a field without a parameter is refused.

    Attributes:
        worker_id: The worker's number in its process.
        checkpoint: The pipeline's folder.
        pipe: The pipeline.
        native_size: ``WIDTHxHEIGHT`` of a request without a size.
        numerics: The numerics plan.
    """

    def __init__(self, worker_id: int = 0, settings: Settings | None = None) -> None:
        """Load the configured folder.

        Args:
            worker_id: The worker's number in its process.
            settings: The configuration; None reads the environment and ``imagegen.toml``.

        Raises:
            ModelNotFoundError: The folder does not exist.
            ModelLoadError: The folder is damaged, or its pipeline does not draw a picture from a prompt.
            SettingsError: The device, the precision or an option is not available here.
        """
        settings = (settings or Settings.load()).for_backend(BACKEND.environment_prefix)
        _refuse_unsupported(settings)
        CallbackWorker.__init__(self, worker_id)
        self.checkpoint: Path = _folder(settings)
        OnDevice.__init__(self, settings)
        if settings.dtype is None and self.dtype == torch.float16 and stores_bf16(self.checkpoint):
            self.dtype = torch.bfloat16  # such networks often overflow in fp16
        self.native_size = native_size(self.checkpoint) or BACKEND.default_size
        self.pipe = self._compute.run(self._load)
        self._call = PipelineCall(self.pipe)
        decoder = getattr(self.pipe, "vae", None) or getattr(self.pipe, "movq", None)
        self._previewer = None if decoder is None else Previewer(decoder)
        self._writes_recipe = settings.recipe
        plan: NumericsPlan = self.compute(device_numerics, self.device, self.dtype)
        self.numerics = replace(plan, versions={**plan.versions, _PACKAGE: version(_PACKAGE)})

    def draw(self, request: GenerateRequest, progress: Progress) -> Picture:
        """Draw a request with one call of the pipeline.

        Raises:
            InvalidRequestError: A value is out of range, or the pipeline does not take its field.
            OutOfMemoryError: The device's memory was too small.
        """
        resolved = self._call.resolve(request, self.native_size)
        pixels, latents = self.compute_at_length(self._run, resolved, progress)
        return Picture(encode_png(pixels, self._text(resolved)), resolved.seed, latents)

    def _run(self, request: ResolvedRequest, progress: Progress) -> tuple[np.ndarray[Any, Any], bytes]:
        """Call the pipeline; return pixels [height, width, 3] and pooled latents."""
        progress.check()
        steps = _Steps(self, request, progress)
        devices = [self.device] if self.device.type == "cuda" else []
        with memory_errors(request.size), torch.random.fork_rng(devices):
            torch.manual_seed(request.seed)  # for schedulers that draw noise without the call's generator
            try:
                result = self.pipe(**self._call.arguments(request), **steps.callbacks(self._call.parameters))
            except ValueError as error:
                if steps.done:
                    raise
                reason = str(error).partition("\n")[0].rstrip(".") or "it gives no reason"
                raise InvalidRequestError(f"A {type(self.pipe).__name__} refuses the request: {reason}") from error
        picture = np.asarray(result.images[0])
        self._check(picture, request.size)
        shown = torch.from_numpy(picture).permute(2, 0, 1)[None] * 2 - 1
        return (picture * 255).round().astype(np.uint8), pool(shown if steps.latents is None else steps.latents)

    def preview_of(self, latents: torch.Tensor) -> bytes | None:
        """Return latents [1, channels, h, w] as a small PNG; None if the decoder has other latents."""
        if self._previewer is None or latents.shape[1] != self._previewer.channels:
            return None
        return self._previewer.png(latents)

    def _load(self) -> Any:
        check_call(pipeline_class(self.checkpoint), self.checkpoint)
        return load_pretrained(self.checkpoint, self.dtype, self.device)

    def _check(self, picture: np.ndarray[Any, Any], size: Size) -> None:
        """Check the pixels of a finished call.

        Raises:
            ImagegenError: They are not finite.
            InvalidRequestError: The pipeline has drawn another size than the requested size.
        """
        if not np.isfinite(picture).all():
            raise ImagegenError(
                f"The pixels of a {type(self.pipe).__name__} are not finite (NaN): lower guidance_scale, or set "
                "CUDA_DTYPE to bf16 or fp32"
            )
        height, width = picture.shape[:2]
        if (width, height) != (size.width, size.height):
            name = type(self.pipe).__name__
            raise InvalidRequestError(
                f"Invalid size '{size}' for a {name}: it draws {width}x{height} instead; ask for that", "size"
            )

    def _text(self, request: ResolvedRequest) -> dict[str, str]:
        if not self._writes_recipe:
            return {}
        recipe = Recipe.of(
            request,
            checkpoint=self.checkpoint.name,
            backend=BACKEND.name,
            dtype=self.numerics.precision,
            device=str(self.device),
            versions=self.numerics.versions,
            numerics=self.numerics.of_picture(request.size),
        )
        return to_text(recipe)


class _Steps:
    """The steps of a call, as its callbacks report them.

    Attributes:
        done: The number of finished steps.
        latents: The latents of the last step [1, channels, h, w], if the callbacks show them.
    """

    def __init__(self, worker: DiffusersPipelineWorker, request: ResolvedRequest, progress: Progress) -> None:
        self._worker, self._request, self._progress = worker, request, progress
        self.done = 0
        self.latents: torch.Tensor | None = None

    def callbacks(self, parameters: frozenset[str]) -> dict[str, Callable[..., Any]]:
        """Return the arguments for a call's callbacks; the callbacks of earlier stages, such as a prior, only wait."""
        if _STEP_END in parameters:
            earlier = {name for name in parameters if name.endswith(f"_{_STEP_END}")}
            return {_STEP_END: self._ended, **dict.fromkeys(earlier, self._ended_earlier)}
        return {"callback": self._called} if "callback" in parameters else {}

    def _ended(self, pipe: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        self._report(step + 1, getattr(pipe, "num_timesteps", self._request.steps), tensors.get("latents"))
        return tensors

    def _ended_earlier(self, _pipe: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        self._progress.check()
        self._worker.give_way()
        return tensors

    def _called(self, step: int, _timestep: Any, latents: torch.Tensor) -> None:
        self._report(step + 1, self._request.steps, latents)

    def _report(self, step: int, steps: int, latents: torch.Tensor | None) -> None:
        self.done, self.latents = step, None
        if latents is not None:
            if not latents.isfinite().all():
                raise ImagegenError(
                    f"The latents are not finite (NaN) after step {step} of {steps}: lower guidance_scale "
                    f"({self._request.guidance_scale:g}), or set CUDA_DTYPE to bf16 or fp32"
                )
            self.latents = as_picture(self._worker.pipe, latents, self._request.size)
        self._worker.synchronize()
        self._progress.step_done(step, max(step, steps), self._preview)
        self._worker.give_way()

    def _preview(self) -> bytes | None:
        return None if self.latents is None else self._worker.preview_of(self.latents)


def _folder(settings: Settings) -> Path:
    if settings.model is None:
        raise ModelNotFoundError(
            f"No checkpoint is configured for backend '{BACKEND.name}': set {BACKEND.environment_prefix}_MODEL or "
            "MODEL to a folder with a model_index.json"
        )
    folder = locate(settings.model, settings.model_root, Registry.discover().models)
    if not folder.is_dir():
        raise ModelLoadError(
            f"{folder} is a file, and backend '{BACKEND.name}' draws with diffusers-format folders alone: name a folder"
        )
    return folder


def _refuse_unsupported(settings: Settings) -> None:
    unsupported = [field for field in _UNSUPPORTED_SETTINGS if getattr(settings, field)]
    if settings.rows_per_pass > 1:
        unsupported.append("rows_per_pass")
    for field in unsupported:
        raise SettingsError(
            f"{settings.source(field)} asks for what the backend '{BACKEND.name}' does not have: unset it"
        )
    if settings.source("scheduler") != "default":
        raise SettingsError(
            f"{settings.source('scheduler')}={settings.scheduler}, but the backend '{BACKEND.name}' draws with each "
            "pipeline's own scheduler: unset it"
        )
