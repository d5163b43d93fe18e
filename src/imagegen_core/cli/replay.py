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

    target = Output.parse(output, count=1)
    recipe = read_recipe(picture)
    request = _request(recipe)
    worker = _worker(recipe)
    drawn, _ = draw(worker, request, "Drawing")
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


def _request(recipe: Recipe) -> GenerateRequest:
    request = recipe.request()
    return request.with_loras(_loras(recipe)) if recipe.loras else request


def _loras(recipe: Recipe) -> list[LoraUse]:
    """Select the recipe's LoRAs that a configured mode has; the picture lacks the others."""
    from imagegen_core.modes import load_modes
    from imagegen_core.settings import Settings

    known = {lora.path.stem: lora for mode in load_modes(Settings.load()).modes.values() for lora in mode.loras}
    return [replace(known[lora.name], strength=lora.strength) for lora in recipe.loras if lora.name in known]


def _worker(recipe: Recipe) -> Worker:
    """Load the recipe's backend, in its precision, with the configured checkpoint, or else the recipe's."""
    from imagegen_core.plugins.registry import Registry
    from imagegen_core.settings import Settings

    backend = Registry.discover().backend(recipe.backend)
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
