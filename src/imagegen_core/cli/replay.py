"""``imagegen replay``: draw a picture again from its recipe."""

from __future__ import annotations

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
    from imagegen_core.settings import Settings
    from imagegen_core.worker import Worker


def replay(
    picture: Annotated[Path, typer.Argument(metavar="PNG", help="A picture that imagegen drew.")],
    output: Annotated[
        str, typer.Option("--output", "-o", help="The PNG to write; - writes it to stdout.")
    ] = "replayed.png",
    image: Annotated[
        Path | None, typer.Option(help="The picture that it was drawn from; its recipe has only a hash of it.")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="The mask that it was drawn with.")] = None,
    refiner: Annotated[
        str | None, typer.Option(help="The refiner's checkpoint, unless its name in the recipe finds it.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Write the nearest picture where the same one cannot be drawn.")] = False,
) -> None:
    """Draw a picture again, to the same bytes, or report the differences."""
    from imagegen_core.images.recipe import read_recipe
    from imagegen_core.plugins.registry import Registry
    from imagegen_core.replay import recipe_differences, request_of, with_pictures
    from imagegen_core.resolution.backends import backend_of
    from imagegen_core.resolution.parameters import complete_parameters
    from imagegen_core.settings import Settings

    target = Output.parse(output, count=1)
    recipe, settings, registry = read_recipe(picture), Settings.load(), Registry.discover()
    request = with_pictures(request_of(recipe, settings), recipe, image=image, mask=mask)
    known = {name: value for name, value in request.parameters.given.items() if name in registry.parameters}
    worker = _worker(recipe, settings, registry)  # the picture lacks the other parameters
    request = complete_parameters(request.with_parameters(known), registry.parameters, backend_of(worker, registry))
    with registry.hooks.running(settings):
        drawn, _ = draw(worker, request, "Drawing", registry.hooks, _refiner(recipe, settings, refiner))
    differing = recipe_differences(recipe, read_recipe(drawn.png))
    if recipe.upscalings:
        differing.append("it was enlarged afterwards, and is drawn as it was before")
    elif not differing and drawn.png != picture.read_bytes():
        is_exact = recipe.numerics.get("exact", True)
        cause = "by another processor or library" if is_exact else "since its numerics plan was not exact"
        differing.append(f"the pixels come out otherwise, {cause}")
    if differing and not force:
        raise ImagegenError(
            f"{picture} cannot be drawn again to the same bytes: {'; '.join(differing)}. Draw the nearest with --force"
        )
    path = target.write(drawn.png, 0)
    if not target.is_stdout:
        console.say(f"{path}  {'; '.join(differing) or 'the same bytes'}")


def _refiner(recipe: Recipe, settings: Settings, given: str | None) -> Worker | None:
    """Load the recipe's refiner, by its own numerics plan."""
    from dataclasses import replace

    from imagegen_core.replay import settings_of

    if recipe.refiner is None:
        if given is not None:
            raise ImagegenError("The picture was drawn without a refiner: leave --refiner out")
        return None
    own = replace(
        recipe, dtype=recipe.refiner_dtype or recipe.dtype, numerics=recipe.refiner_numerics or recipe.numerics
    )
    its = settings_of(own, settings).model_copy(update={"backend": None, "prediction": None})
    return load(model=given or recipe.refiner, settings=its)


def _worker(recipe: Recipe, settings: Settings, registry: Registry) -> Worker:
    """Load the recipe's backend, by its numerics plan, with the configured checkpoint, or else the recipe's."""
    from imagegen_core.replay import settings_of

    backend = registry.backend(recipe.backend)
    configured = settings.for_backend(backend.environment_prefix).model
    return load(model=None if configured else recipe.checkpoint, settings=settings_of(recipe, settings))
