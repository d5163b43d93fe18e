"""Shortcuts for Python users: load a worker or draw a picture in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from imagegen_core.errors import InvalidRequestError
from imagegen_core.job import Cancelled, Done, Failed, Job, Started, StepDone
from imagegen_core.picture import Picture
from imagegen_core.request import GenerateRequest, StyleLoraRequest, check_request

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from imagegen_core.plugins.job_hooks import JobHooks
    from imagegen_core.request import HiresOptions, InpaintOptions, MicroConditioning, OutpaintOptions, Variation
    from imagegen_core.settings import Settings
    from imagegen_core.worker import HandsOver, Worker


def load_worker(backend: str | None = None, model: str | None = None, settings: Settings | None = None) -> Worker:
    """Load the configured worker.

    Args:
        backend: Name of a backend; None uses the configured backend.
        model: A checkpoint: a path, a name below the model root, or a named model such as ``demo``.
        settings: The configuration; None reads the environment and ``imagegen.toml``. With several devices, the
            worker uses the first.

    Raises:
        ImagegenError: No backend fits, or the checkpoint is missing or cannot be loaded.
    """
    from imagegen_core.plugins.registry import Registry
    from imagegen_core.resolution.backend_settings import check_tables, own_settings
    from imagegen_core.resolution.backends import select_backend
    from imagegen_core.settings import Settings

    settings = Settings.load() if settings is None else settings
    settings = settings.override(backend=backend, model=model)
    registry = Registry.discover()
    check_tables(settings, registry)
    chosen = select_backend(registry, settings)
    own_settings(chosen, settings)  # refuse invalid settings before an import of the worker
    return chosen.load()(worker_id=0, settings=settings.for_device())


def generate(
    prompt: str,
    *,
    size: str | None = None,
    num_inference_steps: int = 4,
    guidance_scale: float = 1.0,
    seed: int | None = None,
    negative_prompt: str | None = None,
    scheduler: str | None = None,
    style: str | None = None,
    clip_skip: int = 0,
    schedule: str | None = None,
    guidance_rescale: float = 0.0,
    eta: float | None = None,
    s_churn: float | None = None,
    s_tmin: float | None = None,
    s_tmax: float | None = None,
    s_noise: float | None = None,
    image: bytes | Path | Image | None = None,
    mask: bytes | Path | Image | None = None,
    strength: float | None = None,
    resize: str | None = None,
    inpaint: InpaintOptions | None = None,
    outpaint: OutpaintOptions | None = None,
    image_guidance_scale: float | None = None,
    variation: Variation | None = None,
    micro_conditioning: MicroConditioning | None = None,
    hires: HiresOptions | None = None,
    refiner: str | Worker | None = None,
    switch_at: float | None = None,
    parameters: Mapping[str, Any] | None = None,
    worker: Worker | None = None,
    backend: str | None = None,
    model: str | None = None,
    settings: Settings | None = None,
) -> Picture:
    """Draw one picture, with the plugins' hooks around it.

    Loading a model takes longer than drawing: for more than one picture, pass a `worker` from `load_worker`.

    Args:
        prompt: Description of the picture.
        size: ``WIDTHxHEIGHT`` in pixels; None means the checkpoint's native size.
        num_inference_steps: See `GenerateRequest`.
        guidance_scale: See `GenerateRequest`.
        seed: See `GenerateRequest`.
        negative_prompt: See `GenerateRequest`.
        scheduler: See `GenerateRequest`.
        style: ``NAME`` or ``NAME:LEVEL``; see `StyleLoraRequest.parse`.
        clip_skip: See `GenerateRequest`.
        schedule: See `GenerateRequest`.
        guidance_rescale: See `GenerateRequest`.
        eta: See `GenerateRequest`.
        s_churn: See `GenerateRequest`.
        s_tmin: See `GenerateRequest`.
        s_tmax: See `GenerateRequest`.
        s_noise: See `GenerateRequest`.
        image: See `GenerateRequest`.
        mask: See `GenerateRequest`.
        strength: See `GenerateRequest`.
        resize: See `GenerateRequest`.
        inpaint: See `GenerateRequest`.
        outpaint: See `GenerateRequest`.
        image_guidance_scale: See `GenerateRequest`.
        variation: See `GenerateRequest`.
        micro_conditioning: See `GenerateRequest`.
        hires: See `GenerateRequest`.
        refiner: The model for the last steps: a mode of the configuration, a checkpoint as in `load_worker`, or a
            worker that is loaded.
        switch_at: See `GenerateRequest`.
        parameters: Values of plugins' parameters by name; see `Parameter`.
        worker: The worker to draw with; None calls `load_worker` with the next three arguments.
        backend: See `load_worker`.
        model: See `load_worker`.
        settings: See `load_worker`.

    Raises:
        InvalidRequestError: A value is out of range, or a plugin refuses the request.
        PluginError: A plugin failed at the request or the picture.
        ImagegenError: See `load_worker`.
    """
    from imagegen_core.plugins.registry import Registry
    from imagegen_core.resolution.backends import backend_of
    from imagegen_core.resolution.parameters import complete_parameters
    from imagegen_core.settings import Settings

    request = GenerateRequest.given(
        prompt=prompt,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        seed=seed,
        negative_prompt=negative_prompt,
        scheduler=scheduler,
        style_lora=None if style is None else StyleLoraRequest.parse(style),
        clip_skip=clip_skip,
        schedule=schedule,
        guidance_rescale=guidance_rescale,
        eta=eta,
        s_churn=s_churn,
        s_tmin=s_tmin,
        s_tmax=s_tmax,
        s_noise=s_noise,
        size=size,
        image=image,
        mask=mask,
        strength=strength,
        resize=resize,
        inpaint=inpaint,
        outpaint=outpaint,
        image_guidance_scale=image_guidance_scale,
        variation=variation,
        micro_conditioning=micro_conditioning,
        hires=hires,
        refiner=refiner if refiner is None or isinstance(refiner, str) else type(refiner).__name__,
        switch_at=switch_at,
    )
    check_request(request)  # refuse an invalid request before loading a model
    registry = Registry.discover()
    request = complete_parameters(request.with_parameters(parameters or {}), registry.parameters, None)
    worker = worker or load_worker(backend, model, settings)
    request = complete_parameters(request, registry.parameters, backend_of(worker, registry))
    if isinstance(refiner, str):
        refiner = load_refiner(refiner, settings) if refiner else None
    with registry.hooks.running(settings or Settings.load()):
        return draw(worker, registry.hooks.request(request), registry.hooks, refiner=refiner)


def load_refiner(name: str, settings: Settings | None = None) -> Worker:
    """Load the worker of a refiner.

    Args:
        name: A mode of the configuration, or a checkpoint as in `load_worker`.
        settings: The configuration; None reads the environment and ``imagegen.toml``.

    Raises:
        InvalidRequestError: The mode has LoRAs.
        ImagegenError: The checkpoint is missing or cannot be loaded.
    """
    from imagegen_core.modes import load_modes
    from imagegen_core.settings import Settings

    settings = Settings.load() if settings is None else settings
    modes = load_modes(settings)
    if modes.configured and name in modes.modes:
        modes.modes[name].check_refines()
        return load_worker(settings=modes.modes[name].settings)
    # The backend and the prediction in the settings are those of the first model.
    return load_worker(model=name, settings=settings.model_copy(update={"backend": None, "prediction": None}))


def draw(
    worker: Worker,
    request: GenerateRequest,
    hooks: JobHooks,
    on_step: Callable[[StepDone], None] | None = None,
    refiner: Worker | None = None,
) -> Picture:
    """Draw one request with a worker, with the plugins' hooks after it; see `JobHooks.request` for the one before.

    Args:
        worker: The worker; no other thread may use it meanwhile.
        request: The request as it is drawn.
        hooks: The plugins' hooks.
        on_step: Is called after each denoising step.
        refiner: The worker for the last steps of a request with a refiner.

    Raises:
        ImagegenError: The worker or a plugin fails.
    """

    def tell(done: StepDone) -> None:
        hooks.tell(job, done)
        if on_step is not None:
            on_step(done)

    job = Job(req=request, on_step=tell)
    hooks.tell(job, Started())
    try:
        picture = hooks.picture(_drawn(worker, job, refiner), request)
    except Exception as error:
        hooks.tell(job, Failed(error))
        raise
    except BaseException:
        hooks.tell(job, Cancelled())
        raise
    hooks.tell(job, Done(picture))
    return picture


def _drawn(worker: Worker, job: Job, refiner: Worker | None) -> Picture:
    """Draw a job, and its last steps with the refiner if it has one."""
    from imagegen_core.worker import HandsOver

    if refiner is None or not job.req.refiner:
        return Picture(*worker.run_job_with_latents(job))
    for part in (worker, refiner):
        if not isinstance(part, HandsOver):
            name = type(part).__name__
            raise InvalidRequestError(f"Invalid refiner: {name} draws whole pictures; leave it out", "refiner")
    half_drawn = cast("HandsOver", worker).run_first_part(job)
    return Picture(*refiner.run_job_with_latents(replace(job, half_drawn=half_drawn)))
