"""A worker in the shape of a diffusion worker: noise, steps towards the prompt, a decoder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import numpy.typing as npt
from PIL import Image

from imagegen_core import (
    Job,
    Picture,
    Recipe,
    ResolvedRequest,
    Settings,
    SettingsError,
    StepDone,
    SteppedWorkerBase,
    encode_png,
    to_text,
)
from imagegen_toy.plugin import BACKEND

Array = npt.NDArray[np.float32]

_REDUCTION = 8  # pixels for each latent in both directions
_TO_RGB = np.array([[0.9, 0.2, 0.1], [0.1, 0.8, 0.3], [0.2, 0.1, 0.9], [0.5, 0.5, 0.5]], np.float32)


@dataclass(eq=False)
class Denoising:
    """The state of one picture: its latents [4, height / 8, width / 8] move towards `aim`."""

    job: Job
    request: ResolvedRequest
    latents: Array
    aim: Array
    steps_done: int = 0
    failure: Exception | None = None
    rows: int = 1

    @property
    def steps_left(self) -> int:
        """The number of remaining steps."""
        return self.request.steps - self.steps_done


class ToyWorker(SteppedWorkerBase[Denoising]):
    """Draws clouds with colours from the prompt's words; implements `SteppedWorker` and `BatchInvariant`."""

    def __init__(self, worker_id: int = 0, settings: Settings | None = None) -> None:
        """Check the device; there is nothing to load.

        Raises:
            SettingsError: The settings ask for another device than the CPU.
        """
        settings = settings or Settings.load()
        if settings.device not in (None, "cpu"):
            raise SettingsError(f"The backend 'toy' cannot draw on {settings.device!r}: it draws on 'cpu' alone")
        super().__init__(worker_id)
        self.native_size = BACKEND.default_size
        self._writes_recipe = settings.recipe

    def begin(self, job: Job) -> Denoising:
        """Check the request and draw its noise, from its own generator."""
        request = BACKEND.resolve(job.req)
        shape = (4, request.size.height // _REDUCTION, request.size.width // _REDUCTION)
        noise = np.random.default_rng(request.seed).standard_normal(shape, np.float32)
        return Denoising(job, request, noise, _aim(request, shape))

    def group(self, state: Denoising) -> Hashable:
        """Return the picture's size: latents of one shape share a pass."""
        return f"{state.request.size}"

    def step(self, states: Sequence[Denoising]) -> None:
        """Take one step of each state, all in one pass."""
        for state, latents in zip(states, _denoised(states), strict=True):
            _advance(state, latents)

    def trial(self, states: Sequence[Denoising]) -> bool:
        """Take one step of each state alone, and return whether a shared pass gives the same bits."""
        together = _denoised(states)
        for state in states:
            _advance(state, _denoised([state])[0])
        return all(np.array_equal(state.latents, shared) for state, shared in zip(states, together, strict=True))

    def finish(self, state: Denoising) -> Callable[[], Picture]:
        """Decode now; the returned function encodes the PNG later."""
        pixels = _decode(state.latents)
        latents = _pooled(state.latents)
        return lambda: Picture(encode_png(pixels, self._text(state.request)), state.request.seed, latents)

    def _text(self, request: ResolvedRequest) -> dict[str, str]:
        """Return the recipe for `imagegen replay`, without a sampler and a checkpoint."""
        if not self._writes_recipe:
            return {}
        return to_text(Recipe.of(request, backend=BACKEND.name, versions={"imagegen-toy": version("imagegen-toy")}))


def _aim(request: ResolvedRequest, shape: tuple[int, ...]) -> Array:
    """Return the target of the latents: the prompt, and with guidance a point further from the negative prompt."""
    positive = _clouds(request.prompt, shape)
    negative = _clouds(request.negative_prompt or "", shape)
    return negative + max(request.guidance_scale, 1.0) * (positive - negative)


def _clouds(prompt: str, shape: tuple[int, ...]) -> Array:
    """Return a soft wave in each channel for every word; the word decides the wave's place and strength."""
    channels, height, width = shape
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j].astype(np.float32)
    clouds = np.zeros(shape, np.float32)
    for word in prompt.lower().split():
        turn = (
            np.frombuffer(hashlib.sha256(word.encode()).digest(), np.uint8)[: 4 * channels].reshape(channels, 4) / 255
        )
        for channel, (across, down, phase, strength) in enumerate(turn):
            clouds[channel] += strength * np.sin(6 * (across * x + down * y + phase))
    return clouds


def _denoised(states: Sequence[Denoising]) -> Array:
    """Return the latents of all states after one more step [states, 4, height, width]."""
    latents = np.stack([state.latents for state in states])
    aims = np.stack([state.aim for state in states])
    left = np.array([state.steps_left for state in states], np.float32).reshape(-1, 1, 1, 1)
    return latents + (aims - latents) * (0.9 / left)


def _advance(state: Denoising, latents: Array) -> None:
    state.latents = latents
    state.steps_done += 1
    if state.job.on_step:
        state.job.on_step(StepDone(state.steps_done, state.request.steps))


def _decode(latents: Array) -> npt.NDArray[np.uint8]:
    """Return RGB pixels [height, width, 3], eight for each latent in both directions."""
    colours = np.einsum("chw,cr->rhw", latents, _TO_RGB)
    size = (latents.shape[2] * _REDUCTION, latents.shape[1] * _REDUCTION)
    smooth = [np.asarray(Image.fromarray(colour).resize(size, Image.Resampling.BICUBIC)) for colour in colours]
    return np.asarray((np.tanh(np.stack(smooth, axis=-1)) + 1) * 127.5, np.uint8)


def _pooled(latents: Array) -> bytes:
    """Average the latents to 8×8, as little-endian float16 [1, 4, 8, 8], with the cells of torch's adaptive pooling."""
    rows, columns = ([(n * k // 8, -(-n * (k + 1) // 8)) for k in range(8)] for n in latents.shape[1:])
    cells = [[latents[:, a:b, c:d].mean(axis=(1, 2)) for c, d in columns] for a, b in rows]
    return np.array(cells).transpose(2, 0, 1).astype("<f2").tobytes()
