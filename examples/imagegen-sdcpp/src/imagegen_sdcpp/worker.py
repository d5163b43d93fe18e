"""The worker: a picture is one call of stable-diffusion.cpp."""

from __future__ import annotations

import logging
import threading
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cyllama.sd import SDContext, SDContextParams, set_log_callback, set_progress_callback

from imagegen_core import (
    CallbackWorker,
    GenerateRequest,
    ModelLoadError,
    ModelNotFoundError,
    Picture,
    Progress,
    Recipe,
    Registry,
    ResolvedRequest,
    Settings,
    SettingsError,
    encode_png,
    locate,
    to_text,
)
from imagegen_sdcpp.plugin import BACKEND

logger = logging.getLogger(__name__)

_UNSUPPORTED_SETTINGS = (
    "base_model",
    "fast_decode",
    "preview_decode",
    "embeddings_root",
    "prediction",
    "compile",
    "cuda_graphs",
    "enable_xformers",
    "attention_slicing",
    "int8",
    "dtype",
    "vae_dtype",
    "vae_channels_last",
)
_POOLED_SIDE = 8
# stable-diffusion.cpp reports progress to one function for the whole process.
_REPORTING = threading.Lock()


class StableDiffusionCppWorker(CallbackWorker):
    """Draws with stable-diffusion.cpp, on the device that its build supports.

    A started picture cannot be stopped: a cancelled job ends after its last step.

    Attributes:
        worker_id: The worker's number in its process.
        checkpoint: The model's file.
        native_size: ``WIDTHxHEIGHT`` of a request without a size.
    """

    def __init__(self, worker_id: int = 0, settings: Settings | None = None) -> None:
        """Load the configured model.

        Args:
            worker_id: The worker's number in its process.
            settings: The configuration; None reads the environment and ``imagegen.toml``.

        Raises:
            ModelNotFoundError: The model does not exist.
            ModelLoadError: stable-diffusion.cpp does not load the model.
            SettingsError: An option is not available here.
        """
        settings = (settings or Settings.load()).for_backend(BACKEND.environment_prefix)
        for field in _UNSUPPORTED_SETTINGS:
            if getattr(settings, field):
                raise SettingsError(
                    f"{settings.source(field)} asks for what stable-diffusion.cpp does not have: unset it"
                )
        super().__init__(worker_id)
        self.checkpoint: Path = _file(settings)
        self.native_size = BACKEND.default_size
        self._writes_recipe = settings.recipe
        self._context = _load(self.checkpoint, settings.vae_path)

    def draw(self, request: GenerateRequest, progress: Progress) -> Picture:
        """Draw a request with one call.

        Raises:
            InvalidRequestError: A value is out of range, or stable-diffusion.cpp does not take its field.
        """
        resolved = BACKEND.resolve(request, self.native_size)

        def report(step: int, steps: int, _: float) -> None:
            if steps == resolved.steps and not progress.is_stopped:  # the decoder reports its tiles, too
                progress.step_done(step, steps)

        with _REPORTING:
            set_progress_callback(report)
            try:
                (image,) = self._context.generate(
                    prompt=resolved.prompt,
                    negative_prompt=resolved.negative_prompt or "",
                    width=resolved.size.width,
                    height=resolved.size.height,
                    seed=resolved.seed,
                    sample_steps=resolved.steps,
                    cfg_scale=max(resolved.guidance_scale, 1.0),
                    clip_skip=resolved.clip_skip + 1 if resolved.clip_skip else -1,
                )
            finally:
                set_progress_callback(_report_nothing)
        pixels = np.ascontiguousarray(image.to_numpy())
        return Picture(encode_png(pixels, self._text(resolved)), resolved.seed, _pooled(pixels))

    def _text(self, request: ResolvedRequest) -> dict[str, str]:
        if not self._writes_recipe:
            return {}
        recipe = Recipe.of(
            request,
            checkpoint=self.checkpoint.name,
            backend=BACKEND.name,
            versions={name: version(name) for name in ("imagegen-core", "imagegen-sdcpp", "cyllama")},
        )
        return to_text(recipe)


def _file(settings: Settings) -> Path:
    if settings.model is None:
        raise ModelNotFoundError(
            f"No model is configured for backend '{BACKEND.name}': set {BACKEND.environment_prefix}_MODEL to a file "
            "such as model.gguf or model.safetensors"
        )
    return locate(settings.model, settings.model_root, Registry.discover().models)


def _load(path: Path, vae: Path | None) -> SDContext:
    """Load a model; the library's last words explain a failure."""
    words = ""

    def log(_: int, text: object) -> None:
        nonlocal words
        words = str(text).strip() or words
        logger.debug("stable-diffusion.cpp: %s", words)

    set_log_callback(log)
    set_progress_callback(_report_nothing)
    try:
        return SDContext(SDContextParams(model_path=str(path), vae_path=str(vae) if vae else None))
    except RuntimeError as error:
        raise ModelLoadError(
            f"stable-diffusion.cpp does not load {path} ({words or error}): take another file"
        ) from error


def _report_nothing(*_: object) -> None:
    """Take the place of the library's own report, a bar on stdout."""


def _pooled(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return the picture's fingerprint: its latents stay in the library, so its colours take their place.

    Red, green, blue and their mean, from -1 to 1, averaged to float16 [1, 4, 8, 8].
    """
    image = pixels.astype(np.float32).transpose(2, 0, 1) / 127.5 - 1
    image = np.concatenate([image, image.mean(axis=0, keepdims=True)])
    rows, columns = (np.array_split(np.arange(side), _POOLED_SIDE) for side in image.shape[1:])
    means = [[image[:, row][:, :, column].mean(axis=(1, 2)) for column in columns] for row in rows]
    return np.array(means).transpose(2, 0, 1)[None].astype("<f2").tobytes()
