"""``imagegen generate``: draw from a prompt."""

from __future__ import annotations

import sys
import time
from collections import deque
from contextlib import ExitStack, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imagegen_core.cli import console
from imagegen_core.cli.output import Output
from imagegen_core.cli.waiting import load, status, step_bar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imagegen_core.picture import Picture
    from imagegen_core.plugins.job_hooks import JobHooks
    from imagegen_core.request import GenerateRequest
    from imagegen_core.worker import Worker


def generate(
    prompt: Annotated[str, typer.Argument(help="What the picture shows.")],
    output: Annotated[
        str,
        typer.Option("--output", "-o", help="The PNG to write; - writes it to stdout. With --count, numbered."),
    ] = "out.png",
    model: Annotated[
        str | None,
        typer.Option(help="Checkpoint: a path, a name below MODEL_ROOT, or a plugin's, such as demo."),
    ] = None,
    backend: Annotated[str | None, typer.Option(help="Backend to draw with; see `imagegen plugins list`.")] = None,
    mode: Annotated[
        str | None,
        typer.Option(help="A mode of the configuration, whose defaults count where an option is left out."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="WIDTHxHEIGHT in pixels, multiples of 8. [default: the checkpoint's own]"),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps. [default: 4]")] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="Guidance scale: above 1.0 the prompt is pushed, at twice the time. [default: 1.0]"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same picture. [default: random]")] = None,
    negative: Annotated[str | None, typer.Option(help="What not to show; needs a guidance above 1.0.")] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Sampler, such as 'Euler a'; 'checkpoint' is the checkpoint's own. [default: LCM]"),
    ] = None,
    style: Annotated[
        str | None, typer.Option(help="NAME[:LEVEL] of a style; see `imagegen styles list`. [default level: the last]")
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(help="Noise schedule, such as Karras or 'SGM Uniform'. [default: the sampler's own]"),
    ] = None,
    guidance_rescale: Annotated[
        float | None, typer.Option(help="0 to 1: how far guidance is kept from washing the picture out.")
    ] = None,
    eta: Annotated[
        float | None, typer.Option(help="0 to 1: the share of fresh noise in a step, for DDIM and TCD. [default: 0]")
    ] = None,
    s_churn: Annotated[float | None, typer.Option(help="Noise added before each step, for Euler. [default: 0]")] = None,
    s_tmin: Annotated[
        float | None, typer.Option(help="The lowest noise level at which it is added. [default: 0]")
    ] = None,
    s_tmax: Annotated[
        float | None, typer.Option(help="The highest noise level at which it is added. [default: any]")
    ] = None,
    s_noise: Annotated[float | None, typer.Option(help="The standard deviation of that noise. [default: 1]")] = None,
    prediction: Annotated[
        str | None,
        typer.Option(help="What the network predicts: epsilon, v, v-zsnr, sample, edm, edm-v. [default: as it says]"),
    ] = None,
    clip_skip: Annotated[int, typer.Option(help="Last layers of the text encoders to leave out.")] = 0,
    image: Annotated[Path | None, typer.Option(help="A picture to begin with.")] = None,
    mask: Annotated[
        Path | None, typer.Option(help="A mask of the image's size: its white parts are drawn, its black parts stay.")
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(help="0 to 1: how much of the image is drawn anew. [default: 0.8, with a mask 1]"),
    ] = None,
    resize: Annotated[
        str | None, typer.Option(help="How the image gets the size: stretch, crop, pad or latent. [default: stretch]")
    ] = None,
    outpaint: Annotated[
        str | None, typer.Option(help="Pixels to draw around the image, such as left=128,right=64.")
    ] = None,
    inpaint: Annotated[
        str | None,
        typer.Option(
            help="Options of the mask, such as blur=4,only_masked=true: fill, blur, only_masked, padding, invert."
        ),
    ] = None,
    image_guidance: Annotated[
        float | None, typer.Option(help="Strength of the image for instruct-pix2pix checkpoints. [default: 1.5]")
    ] = None,
    variation: Annotated[
        str | None, typer.Option(help="SEED:STRENGTH of a second seed, such as 7:0.2: a picture a little different.")
    ] = None,
    resize_from: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT whose picture of the same seed this one resembles.")
    ] = None,
    hires: Annotated[
        str | None,
        typer.Option(help="A second stage at a larger size: a factor such as 2, a size, or 2,upscaler=lanczos."),
    ] = None,
    refiner: Annotated[
        str | None, typer.Option(help="Checkpoint for the last steps: a mode, a path or a name, as for --model.")
    ] = None,
    switch_at: Annotated[
        float | None, typer.Option(help="0 to 1: the part of the noise levels before the refiner. [default: 0.8]")
    ] = None,
    micro_conditioning: Annotated[
        str | None,
        typer.Option(
            help="Sizes and crops as conditions, such as original_size=2048x2048,crop=64:0: also target_size, and "
            "negative_ in front of each."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE of a plugin's parameter; see `imagegen plugins list`. Repeatable."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Pictures to draw, with seeds counting up.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was drawn as JSON.")] = False,
) -> None:
    """Draw a picture from a prompt, and from a picture if --image names one."""
    from imagegen_core.cli.picture_options import (
        parse_hires,
        parse_options,
        parse_variation,
        upscaler_file,
    )
    from imagegen_core.modes import load_modes
    from imagegen_core.plugins.registry import Registry
    from imagegen_core.request import (
        GenerateRequest,
        InpaintOptions,
        MicroConditioning,
        OutpaintOptions,
        StyleLoraRequest,
        with_counted_seeds,
    )
    from imagegen_core.resolution.backends import backend_of
    from imagegen_core.resolution.parameters import check_modes, complete_parameters, parse_parameters
    from imagegen_core.settings import Settings
    from imagegen_core.shortcuts import load_refiner

    target = Output.parse(output, count)
    if as_json and target.is_stdout:
        raise typer.BadParameter("--json and -o - both write to stdout: choose one")
    hires_options, upscaler = upscaler_file(parse_hires(hires))
    request = GenerateRequest.given(
        prompt=prompt,
        num_inference_steps=steps,
        guidance_scale=guidance,
        seed=seed,
        negative_prompt=negative,
        size=size,
        scheduler=scheduler,
        schedule=schedule,
        guidance_rescale=guidance_rescale,
        eta=eta,
        s_churn=s_churn,
        s_tmin=s_tmin,
        s_tmax=s_tmax,
        s_noise=s_noise,
        clip_skip=clip_skip,
        image=image,
        mask=mask,
        strength=strength,
        resize=resize,
        outpaint=parse_options(OutpaintOptions, "outpaint", outpaint),
        inpaint=parse_options(InpaintOptions, "inpaint", inpaint),
        image_guidance_scale=image_guidance,
        variation=parse_variation(variation, resize_from),
        hires=hires_options,
        refiner=refiner,
        switch_at=switch_at,
        micro_conditioning=parse_options(MicroConditioning, "micro-conditioning", micro_conditioning),
        style_lora=None if style is None else StyleLoraRequest.parse(style),
    )
    registry = Registry.discover()
    request = request.with_parameters(parse_parameters(set_ or (), registry.parameters))
    settings = Settings.load(prediction=prediction, upscaler=upscaler)
    chosen = None
    if mode is not None:
        if model is not None or backend is not None:
            raise typer.BadParameter("a mode says which model draws: leave --model and --backend out")
        chosen = load_modes(Settings.load()).find(mode)
        check_modes([chosen], registry.parameters)
        request, settings = chosen.complete(request), chosen.settings.override(prediction=prediction, upscaler=upscaler)
    requests = with_counted_seeds(request, count)  # refuse an invalid request before loading a model
    worker = load(backend, model, settings)
    if chosen is not None:
        chosen.check_worker(worker)
    last = None if not request.refiner else load_refiner(request.refiner, settings)
    described = backend_of(worker, registry)
    requests = [complete_parameters(one, registry.parameters, described, chosen) for one in requests]
    drawn = []
    with registry.hooks.running(settings):
        requests = [registry.hooks.request(one) for one in requests]
        for number, (picture, seconds) in enumerate(_draw_all(worker, requests, registry.hooks, last)):
            path = target.write(picture.png, number)
            drawn.append(_report(path, picture, seconds))
            if not target.is_stdout:
                console.say(f"{path}  {drawn[-1]['size']}, seed {picture.seed}, {seconds:.1f} s")
    if as_json:
        console.json_data(drawn)


def draw(
    worker: Worker, request: GenerateRequest, title: str, hooks: JobHooks, refiner: Worker | None = None
) -> tuple[Picture, float]:
    """Draw with a progress bar; return the picture and the seconds."""
    from imagegen_core import shortcuts

    started = time.monotonic()
    with step_bar(title, request.num_inference_steps) as on_step, redirect_stdout(sys.stderr):  # for plugins' prints
        picture = shortcuts.draw(worker, request, hooks, on_step, refiner)
    return picture, time.monotonic() - started


def _draw_all(
    worker: Worker, requests: Sequence[GenerateRequest], hooks: JobHooks, refiner: Worker | None
) -> Iterator[tuple[Picture, float]]:
    """Yield the pictures in order, several in progress at a time, each with the seconds since the start."""
    if len(requests) == 1:
        yield draw(worker, requests[0], "Drawing", hooks, refiner)
        return
    from imagegen_core.engine import LocalEngine
    from imagegen_core.job import StepDone
    from imagegen_core.settings import Settings

    options: dict[str, Any] = {"batching": Settings.load().batching, "queue_limit": len(requests)}
    with ExitStack() as closing:
        with status("Testing how many to draw at a time"):
            engines = [LocalEngine(each, **options) for each in (worker, refiner) if each is not None]
        for engine in reversed(engines):  # the refiner's engine closes last
            closing.enter_context(engine)
            engine.process = hooks.picture if hooks.changes_pictures else None
        started = time.monotonic()
        take_over = engines[-1].take_over if refiner is not None else None
        tickets = deque(engines[0].submit(request, take_over=take_over) for request in requests)
        for ticket in tickets:
            ticket.events.listen(partial(hooks.tell, ticket.job))
        while tickets:
            ticket, title = tickets.popleft(), f"Drawing {len(requests) - len(tickets)} of {len(requests)}"
            with step_bar(title, requests[0].num_inference_steps) as on_step, redirect_stdout(sys.stderr):
                for event in ticket.events:
                    if on_step and isinstance(event, StepDone):
                        on_step(event)
            yield ticket.result(), time.monotonic() - started


def _report(path: Path | None, picture: Picture, seconds: float) -> dict[str, Any]:
    width, height = picture.size
    return {"path": str(path), "seed": picture.seed, "size": f"{width}x{height}", "seconds": round(seconds, 3)}
