"""Begin the drawing of requests, and their further stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from imagegen_core.diffusion.conditioning import Conditioning
from imagegen_core.diffusion.decoding import piece
from imagegen_core.diffusion.denoising import Denoising
from imagegen_core.diffusion.extension import Extension
from imagegen_core.diffusion.half_drawn import HalfDrawn, LatentSpace, end_of_first_part, start_of_last_part
from imagegen_core.diffusion.input_values import Pixels
from imagegen_core.diffusion.loras.adapters import Adapter, Adapters
from imagegen_core.diffusion.memory import check_fits, decoding_bytes, encoding_bytes, memory_errors
from imagegen_core.diffusion.noise import first_noise
from imagegen_core.diffusion.prompt_encoder import PromptEncoder
from imagegen_core.diffusion.scheduling import Schedulers
from imagegen_core.diffusion.stage_upscaling import LoadedUpscaler, StageUpscaling
from imagegen_core.diffusion.stages import Stage
from imagegen_core.diffusion.starting_points import StartingPoints
from imagegen_core.errors import InvalidRequestError
from imagegen_core.job import Job
from imagegen_core.parts import Parts, after_next
from imagegen_core.request import ResolvedRequest, Size, shown
from imagegen_core.resolution.style_catalog import StyleCatalog
from imagegen_core.styles import LoraUse

if TYPE_CHECKING:
    from imagegen_core.diffusion.worker import DiffusionWorker


class Beginnings:
    """Begins the requests of one worker.

    Its methods take the worker as an argument. A reference to the worker would make a reference cycle, and only the
    garbage collector would free the model.
    """

    def __init__(
        self,
        schedulers: Schedulers,
        prompts: PromptEncoder,
        adapters: Adapters,
        styles: StyleCatalog,
        extensions: Sequence[Extension],
        starting_points: StartingPoints,
        upscaling: StageUpscaling,
    ) -> None:
        """Keep the parts of the worker that a beginning needs.

        Args:
            schedulers: Makes the schedulers of requests.
            prompts: Encodes their prompts.
            adapters: The LoRAs in memory.
            styles: All styles, with a refusal for each that does not fit this checkpoint.
            extensions: The extensions in their order.
            starting_points: Makes the first latents.
            upscaling: Enlarges pictures between two stages.
        """
        self._schedulers, self._prompts, self._adapters = schedulers, prompts, adapters
        self._styles, self._extensions, self._starting_points = styles, extensions, starting_points
        self._upscaling = upscaling

    @torch.inference_mode()
    def begin(self, worker: DiffusionWorker, job: Job) -> Parts[Denoising]:
        """Check a request, encode its prompts and draw its noise, in parts; or go on with a half-drawn picture.

        Raises:
            InvalidRequestError: The request asks for something impossible.
            OutOfMemoryError: The picture is too large for the device.
        """
        if (half_drawn := getattr(job, "half_drawn", None)) is not None:
            return (yield from self._go_on(worker, job, half_drawn))
        request = worker.backend.resolve(job.req, worker.native_size)
        _check_refiner(request, job)
        second = self._second_stage(request)
        upscaler = yield from self._upscaler(request, second)
        _check_memory(worker, request)
        if second is not None:
            enlarging = None if upscaler is None else upscaler.needed_bytes(request.size, second.size)
            _check_memory(worker, second, enlarging)
        pictures = self._starting_points.prepare(request)  # another thread prepares them beside the prompts
        adapters = self._wanted(request)
        scheduler, step_options = self._sampling(worker, request)
        conditionings = yield from self._prompts.encode(worker, request, adapters)
        following = None
        if second is not None:
            more = yield from self._prompts.encode(worker, second, adapters)
            larger, options = self._sampling(worker, second)
            conditions = _with_request(worker, more, second)
            following = Stage.of(second, larger, conditions, options, upscaler, rounds_up=worker.flow_matching)
        generator = torch.Generator("cpu").manual_seed(request.seed)
        start = yield from self._starting_points.begin(
            request,
            pictures,
            scheduler,
            generator,
            partial(first_noise, request, generator, worker.initial_latents),
            worker.numerics,
            flows=worker.flow_matching,
        )
        state = Denoising(
            request=request,
            scheduler=scheduler,
            generator=generator,
            latents=start.latents,
            conditionings=_with_request(worker, conditionings, request),
            adapters=adapters,
            step_options=step_options,
            start=start,
            next=following,
            on_step=getattr(job, "on_step", None),
        )
        if request.refiner is not None:
            state.end = end_of_first_part(scheduler, request, start.first)
            state.refining = len(scheduler.timesteps) - start_of_last_part(scheduler, request)
        self._begin_extensions(state)
        return state

    def _go_on(self, worker: DiffusionWorker, job: Job, before: HalfDrawn) -> Parts[Denoising]:
        """Begin the last steps of a half-drawn picture.

        Raises:
            InvalidRequestError: This model cannot go on with it.
            OutOfMemoryError: The picture is too large for the device.
        """
        request = replace(before.request.last_part, scheduler=before.scheduler)
        worker.backend.check(request, worker.native_size)
        if self._starting_points.takes_pictures or before.space != LatentSpace.of(worker.pipe):
            raise InvalidRequestError(
                f"Invalid refiner {shown(before.request.refiner)}: its latents are not those of the first model; name "
                "a model of the same kind",
                "refiner",
            )
        _check_memory(worker, request)
        scheduler, step_options = self._sampling(worker, request)
        start = before.begin(scheduler, worker.device, worker.dtype)
        conditionings = yield from self._prompts.encode(worker, request, ())
        state = Denoising(
            request=request,
            scheduler=scheduler,
            generator=before.generator,
            latents=start.latents,
            conditionings=_with_request(worker, conditionings, request),
            step_options=step_options,
            start=start,
            before=before,
            done=before.steps,
            on_step=getattr(job, "on_step", None),
        )
        self._begin_extensions(state)
        return state

    def next_stage(self, worker: DiffusionWorker, state: Denoising) -> None:
        """Move a state between two stages on, by one part; an error becomes the request's `failure`.

        Latents are enlarged at once. An upscaler takes many parts, and has a group of its own meanwhile.
        """
        stage = state.next
        if stage is None or not state.is_between_stages or state.failure is not None:
            return
        try:
            if stage.upscaler is None:
                self._enter(worker, state, stage)
            elif state.enlargement is None:
                size = stage.request.size
                state.enlargement = self._enlarged(
                    worker, state.request, state.latents, state.generator, stage.upscaler, size
                )
                state.stage += 1
            elif (larger := after_next(state.enlargement)) is not None:
                state.enlargement = None
                self._enter(worker, state, stage, larger)
        except Exception as error:  # noqa: BLE001 - any error concerns this request alone
            state.failure = error

    def adapter(self, lora: LoraUse) -> Adapter:
        """Return the adapter of a LoRA.

        Raises:
            InvalidRequestError: It does not fit this checkpoint.
        """
        adapter = Adapter.of_lora(lora)
        if not self._adapters.has(adapter) and (refusal := self._styles.refusal(lora.path)):
            raise InvalidRequestError(f"The {adapter.title} cannot be used: {refusal}")
        return adapter

    def _wanted(self, request: ResolvedRequest) -> tuple[Adapter, ...]:
        loras = tuple(self.adapter(lora) for lora in request.loras)
        if request.style is None:
            return loras
        return (*loras, Adapter.of_style(self._styles.usable(request.style), request.style_level))

    def _enter(self, worker: DiffusionWorker, state: Denoising, stage: Stage, larger: Tensor | None = None) -> None:
        """Begin a stage of a state, with the latents of its enlarged picture if there are any."""
        if state.request.hires.fresh_noise:
            state.generator = torch.Generator("cpu").manual_seed(state.request.seed)
        stage.begin(state, larger, first_noise(stage.request, state.generator, worker.initial_latents))
        self._begin_extensions(state)

    def _enlarged(
        self,
        worker: DiffusionWorker,
        request: ResolvedRequest,
        latents: Tensor,
        generator: torch.Generator,
        upscaler: LoadedUpscaler,
        size: Size,
    ) -> Parts[Tensor]:
        """Decode a stage's latents, enlarge the picture to a size, and encode it.

        The state itself is no argument: it holds these parts, and a cycle would keep its memory.
        """
        with memory_errors(size):
            pixels = worker.decode(latents, request.size)
            yield
            values = yield from self._upscaling.enlarge(pixels, upscaler, size)
            encoded = self._starting_points.encoded(Pixels(torch.from_numpy(values)), generator, worker.numerics)
            return (yield from encoded)

    def _begin_extensions(self, state: Denoising) -> None:
        state.parts = {}
        for extension in self._extensions:
            if (part := extension.begin(state)) is not None:
                state.parts[extension] = part

    def _second_stage(self, request: ResolvedRequest) -> ResolvedRequest | None:
        """Return the request of a second stage, if the network can draw it."""
        second = request.second_stage
        if second is not None and self._starting_points.takes_pictures:
            raise InvalidRequestError(
                "Invalid hires: this checkpoint takes a picture of one size beside the prompt; leave hires out", "hires"
            )
        return second

    def _upscaler(self, request: ResolvedRequest, second: ResolvedRequest | None) -> Parts[LoadedUpscaler | None]:
        """Load the upscaler before a second stage, if the request names one, and check its way to the size."""
        if second is None or request.hires.upscaler is None or request.hires.latent_mode:
            return None
        self._starting_points.check_encodes()
        upscaler = yield from self._upscaling.load(request.hires.upscaler)
        upscaler.check(request.size, second.size)
        return upscaler

    def _sampling(self, worker: DiffusionWorker, request: ResolvedRequest) -> tuple[Any, dict[str, float]]:
        """Return the scheduler of a request with its timesteps set, and the extra arguments of its steps."""
        options = worker.timestep_options(request)
        scheduler = self._schedulers.make(request.scheduler, request.steps, worker.device, request.schedule, options)
        return scheduler, self._schedulers.step_options(request.scheduler, scheduler, request.step_options)


def _check_refiner(request: ResolvedRequest, job: Job) -> None:
    """Refuse a refiner for a worker that draws alone."""
    if request.refiner is not None and not getattr(job, "is_first_part", False):
        raise InvalidRequestError(
            f"Invalid refiner {shown(request.refiner)}: one worker or engine has one model; draw with a server, "
            "with imagegen.generate, or hand the picture over to the refiner's worker",
            "refiner",
        )


def _check_memory(worker: DiffusionWorker, request: ResolvedRequest, enlarging: int | None = None) -> None:
    """Refuse a picture that the device's memory cannot take, by the estimates of each part of its drawing.

    Args:
        worker: The worker.
        request: The request of a stage.
        enlarging: The bytes to enlarge the picture of the stage before; None if no picture is enlarged and encoded.
    """
    size = request.size
    rows, part = worker.numerics.rows or 1, piece(size, worker.numerics.tile_of(size))
    needed = max(rows * worker.row_bytes(size), decoding_bytes(worker.decoder, part))
    if enlarging is not None:
        needed = max(needed, enlarging, encoding_bytes(worker.pipe.vae, part))
    check_fits(needed, size, worker.device, worker.memory_plan.total, worker.residency.most_bytes)


def _with_request(
    worker: DiffusionWorker, conditionings: Sequence[Conditioning], request: ResolvedRequest
) -> tuple[Conditioning, ...]:
    """Add the request's other conditions: to the negative prompt's, if there is one, and to the prompt's."""
    *negative, positive = conditionings
    added = [worker.with_negative_request(conditioning, request) for conditioning in negative]
    return (*added, worker.with_request(positive, request))
