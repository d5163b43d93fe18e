"""The worker for a model exported to OpenVINO, on one device."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from imagegen_core import (
    GenerateRequest,
    InvalidRequestError,
    Job,
    ModelNotFoundError,
    NumericsPlan,
    Picture,
    Recipe,
    Registry,
    ResolvedRequest,
    Settings,
    SettingsError,
    SteppedWorkerBase,
    encode_png,
    locate,
    to_text,
)
from imagegen_openvino.decoding import decode, pool
from imagegen_openvino.denoising import Denoising, predict
from imagegen_openvino.folder import DECODER, TEXT_ENCODERS, UNET, Manifest
from imagegen_openvino.lcm import Lcm
from imagegen_openvino.noise import Floats, Noise
from imagegen_openvino.plugin import BACKEND
from imagegen_openvino.runtime import Runtime
from imagegen_openvino.text import Conditioning, TextEncoder, encode

logger = logging.getLogger(__name__)

_CACHED_PROMPTS = 64
_REDUCTION, _CHANNELS = 8, 4
_RECORDED_PACKAGES = ("imagegen-core", "imagegen-openvino", "openvino")
_UNSUPPORTED_SETTINGS = (
    "prediction",
    "vae_path",
    "fast_decode",
    "preview_decode",
    "embeddings_root",
    "compile",
    "enable_xformers",
    "attention_slicing",
    "vae_tiling",
)


class OpenVinoWorker(SteppedWorkerBase[Denoising]):
    """Draws with a model exported to OpenVINO; implements `imagegen_core.SteppedWorker`, and proves its batches.

    Attributes:
        worker_id: The worker's number in its process.
        checkpoint: The model's folder.
        device: The model's device.
        dtype: The precision of its computations.
        native_size: ``WIDTHxHEIGHT`` of a request without a size.
        numerics: The numerics plan.
    """

    def __init__(self, worker_id: int = 0, settings: Settings | None = None) -> None:
        """Load the configured model.

        Args:
            worker_id: The worker's number in its process.
            settings: The configuration; None reads the environment and ``imagegen.toml``.

        Raises:
            ModelNotFoundError: The model does not exist.
            ModelLoadError: The model is damaged, or was not exported to OpenVINO.
            SettingsError: The device, the precision or an option is not available here.
        """
        settings = (settings or Settings.load()).for_backend(BACKEND.environment_prefix)
        _refuse_unknown(settings)
        super().__init__(worker_id)
        self.checkpoint: Path = _folder(settings)
        self._manifest = Manifest.read(self.checkpoint)
        self._lcm = Lcm(self._manifest.scheduler)
        runtime = Runtime(settings)
        self._unet, self._decoder = (runtime.load(self.checkpoint / name) for name in (UNET, DECODER))
        text_encoders = [
            TextEncoder(
                runtime.load(self.checkpoint / f"{name}.xml"), self.checkpoint / f"{name}.tokenizer.json", marks
            )
            for name, marks in zip(TEXT_ENCODERS, self._manifest.marks, strict=False)
        ]
        self.device, self.dtype = runtime.device.lower(), self._unet.precision
        self.native_size = self._manifest.native_size
        self._writes_recipe = settings.recipe
        self.numerics = NumericsPlan(
            device=self.device,
            precision=self.dtype,
            processor=runtime.processor,
            attention="openvino",
            rows=settings.rows_per_pass if (settings.rows_per_pass or 1) > 1 else None,
            vae_precision=self._decoder.precision,
            batching=settings.batching,
            exact=settings.batching == "exact",
            network=self._manifest.checkpoint_hash or "",
            versions={name: version(name) for name in _RECORDED_PACKAGES},
        )
        self._encoded = lru_cache(maxsize=_CACHED_PROMPTS)(partial(encode, text_encoders))
        self._settle()

    def begin(self, job: Job) -> Denoising:
        """Check the request, encode its prompt and draw its noise.

        Raises:
            InvalidRequestError: The request asks for something impossible.
        """
        request = BACKEND.resolve(job.req, self.native_size)
        if request.scheduler is not None and not _is_lcm(request.scheduler):
            raise InvalidRequestError(
                f"Invalid scheduler {request.scheduler!r}: the backend '{BACKEND.name}' only has LCM", "scheduler"
            )
        noise = Noise(request.seed)
        return Denoising(
            request=request,
            scheduler=self._lcm,
            timesteps=self._lcm.timesteps(request.steps),
            conditionings=self._conditionings(request),
            noise=noise,
            latents=noise.normal(1, _CHANNELS, request.size.height // _REDUCTION, request.size.width // _REDUCTION),
            on_step=getattr(job, "on_step", None),
        )

    def group(self, state: Denoising) -> Hashable:
        """Return the size and the prompt's length; they must be equal in a shared forward pass."""
        return f"{state.request.size}, {state.conditionings[0].tokens.shape[1]} tokens"

    def step(self, states: Sequence[Denoising]) -> None:
        """Take one denoising step of each state, all in one forward pass; the states are of one group."""
        for state, prediction in zip(states, self._predict(states), strict=True):
            state.advance(prediction)

    def trial(self, states: Sequence[Denoising]) -> bool:
        """Take one step of each state alone, and return whether a shared pass gives the same bits."""
        together, reversed_ = self._predict(states), self._predict(states[::-1])[::-1]
        alone = [self._predict([state])[0] for state in states]
        for state, prediction in zip(states, alone, strict=True):
            state.advance(prediction)
        return all(
            np.array_equal(prediction, single)
            for shared in (together, reversed_)
            for prediction, single in zip(shared, alone, strict=True)
        )

    def finish(self, state: Denoising) -> Callable[[], Picture]:
        """Decode a finished state's latents, and return a function to encode the picture with its recipe."""
        pixels = decode(self._decoder, state.latents)
        latents = pool(state.latents)
        return lambda: Picture(encode_png(pixels, self._text(state.request)), state.request.seed, latents)

    def _predict(self, states: Sequence[Denoising]) -> list[Floats]:
        return predict(self._unet, states, self.numerics.rows)

    def _settle(self) -> None:
        """Draw a picture of many tokens before any other.

        OpenVINO's attention on a CPU (2026.4) keeps its choices from the first input. If the first input is a single
        token, as in an 8x8 picture, later pictures are wrong or NaN. After a larger input, all pictures are right.
        """
        state = self.begin(Job(req=GenerateRequest(prompt="", size="256x256", num_inference_steps=1, seed=0)))
        self.step([state])
        decode(self._decoder, state.latents)

    def _conditionings(self, request: ResolvedRequest) -> tuple[Conditioning, ...]:
        prompt, negative_prompt = self._encoded(request.prompt), request.negative_prompt
        if request.guidance_scale <= 1:
            if negative_prompt:
                logger.warning("The negative prompt has no effect: it needs a guidance scale above 1.0")
            return (prompt,)
        filler = self._encoded("")
        if negative_prompt is None and self._manifest.absent_is_zero:
            filler = filler.zeros()
        negative = filler if negative_prompt is None else self._encoded(negative_prompt)
        length = max(conditioning.tokens.shape[1] for conditioning in (negative, prompt))
        return negative.lengthened(filler, length), prompt.lengthened(filler, length)

    def _text(self, request: ResolvedRequest) -> dict[str, str]:
        if not self._writes_recipe:
            return {}
        recipe = Recipe.of(
            request,
            scheduler="LCM",
            checkpoint=self.checkpoint.name,
            checkpoint_hash=self._manifest.checkpoint_hash,
            backend=BACKEND.name,
            dtype=self.dtype,
            device=self.device,
            versions=self.numerics.versions,
            numerics=self.numerics.of_picture(request.size),
        )
        return to_text(recipe)


def _folder(settings: Settings) -> Path:
    if settings.model is None:
        raise ModelNotFoundError(
            f"No model is configured for backend '{BACKEND.name}': set {BACKEND.environment_prefix}_MODEL to a folder "
            "that `imagegen openvino export` made"
        )
    return locate(settings.model, settings.model_root, Registry.discover().models)


def _refuse_unknown(settings: Settings) -> None:
    """Refuse options of other backends."""
    for field in _UNSUPPORTED_SETTINGS:
        if getattr(settings, field):
            raise SettingsError(f"{settings.source(field)} asks for what the OpenVINO backend does not have: unset it")
    if not _is_lcm(settings.scheduler):
        raise SettingsError(
            f"{settings.source('scheduler')}={settings.scheduler}, but the OpenVINO backend only has LCM: unset it"
        )


def _is_lcm(scheduler: str) -> bool:
    return scheduler.casefold() in ("lcm", "lcmscheduler")
