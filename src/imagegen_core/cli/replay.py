"""``imagegen replay``: draw a picture again from its recipe."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imagegen_core.cli import console
from imagegen_core.cli.generate import draw
from imagegen_core.cli.output import Output
from imagegen_core.cli.waiting import load
from imagegen_core.errors import ImagegenError

if TYPE_CHECKING:
    from imagegen_core.images.recipe import Recipe
    from imagegen_core.plugins.registry import Registry
    from imagegen_core.request import GenerateRequest
    from imagegen_core.styles import LoraUse
    from imagegen_core.worker import Worker


def replay(
    picture: Annotated[Path, typer.Argument(metavar="PNG", help="A picture that imagegen drew.")],
    output: Annotated[
        str, typer.Option("--output", "-o", help="The PNG to write; - writes it to stdout.")
    ] = "replayed.png",
    force: Annotated[bool, typer.Option(help="Write the nearest picture where the same one cannot be drawn.")] = False,
) -> None:
    """Draw a picture again, to the same bytes, or report the differences."""
    from imagegen_core.images.recipe import read_recipe
    from imagegen_core.plugins.registry import Registry
    from imagegen_core.resolution.backends import backend_of
    from imagegen_core.resolution.parameters import complete_parameters
    from imagegen_core.settings import Settings

    target = Output.parse(output, count=1)
    recipe = read_recipe(picture)
    registry = Registry.discover()
    request = _request(recipe, registry)
    worker = _worker(recipe, registry)
    request = complete_parameters(request, registry.parameters, backend_of(worker, registry))
    with registry.hooks.running(Settings.load()):
        drawn, _ = draw(worker, request, "Drawing", registry.hooks)
    differing = _differences(recipe, read_recipe(drawn.png))
    if recipe.upscalings:
        differing.append("it was enlarged afterwards, and is drawn as it was before")
    elif not differing and drawn.png != picture.read_bytes():
        differing.append("the pixels come out otherwise, by another processor or library")
    if differing and not force:
        raise ImagegenError(
            f"{picture} cannot be drawn again to the same bytes: {'; '.join(differing)}. Draw the nearest with --force"
        )
    path = target.write(drawn.png, 0)
    if not target.is_stdout:
        console.say(f"{path}  {'; '.join(differing) or 'the same bytes'}")


def _request(recipe: Recipe, registry: Registry) -> GenerateRequest:
    from imagegen_core.request import GenerateRequest, StyleLoraRequest

    request = GenerateRequest(
        prompt=recipe.prompt,
        negative_prompt=recipe.negative_prompt,
        size=f"{recipe.width}x{recipe.height}",
        num_inference_steps=recipe.steps,
        guidance_scale=recipe.guidance_scale,
        seed=recipe.seed,
        scheduler=recipe.scheduler,
        clip_skip=recipe.clip_skip - 1 if recipe.clip_skip else 0,
        style_lora=StyleLoraRequest(style=recipe.style, level=recipe.style_level),
        schedule=recipe.schedule,
        guidance_rescale=recipe.guidance_rescale or 0.0,
        eta=recipe.eta,
        s_churn=recipe.s_churn,
        s_tmin=recipe.s_tmin,
        s_tmax=recipe.s_tmax,
        s_noise=recipe.s_noise,
    )
    known = {name: value for name, value in (recipe.parameters or {}).items() if name in registry.parameters}
    request = request.with_parameters(known)  # the picture lacks the others
    return request.with_loras(_loras(recipe)) if recipe.loras else request


def _loras(recipe: Recipe) -> list[LoraUse]:
    """Select the recipe's LoRAs that a configured mode has; the picture lacks the others."""
    from imagegen_core.modes import load_modes
    from imagegen_core.settings import Settings

    known = {lora.path.stem: lora for mode in load_modes(Settings.load()).modes.values() for lora in mode.loras}
    return [replace(known[lora.name], strength=lora.strength) for lora in recipe.loras if lora.name in known]


def _worker(recipe: Recipe, registry: Registry) -> Worker:
    """Load the recipe's backend, in its precision, with the configured checkpoint, or else the recipe's."""
    from imagegen_core.settings import Settings

    backend = registry.backend(recipe.backend)
    settings = Settings.load().override(
        backend=recipe.backend, dtype=recipe.dtype, recipe=True, prediction=recipe.prediction
    )
    configured = settings.for_backend(backend.environment_prefix).model
    return load(model=None if configured else recipe.checkpoint, settings=settings)


def _differences(wanted: Recipe, drawn: Recipe) -> list[str]:
    """Describe the differences from the recipe, in words."""
    then, now = asdict(wanted), asdict(drawn)
    versions = {name: (then["versions"].get(name), now["versions"].get(name)) for name in then["versions"]}
    named = {name: (then[name], now[name]) for name in then if name not in ("versions", "upscalings")} | versions
    return [
        f"{name.replace('_', ' ')} was {before}, and is {after}"
        for name, (before, after) in named.items()
        if before != after
    ]
