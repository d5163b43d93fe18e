"""``imagegen upscale``: enlarge a picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imagegen_core.cli import console
from imagegen_core.cli.output import Output

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imagegen_core.images.recipe import Upscaling


def upscale(
    picture: Annotated[Path, typer.Argument(metavar="IN", help="The picture to enlarge.")],
    output: Annotated[
        str, typer.Option("--output", "-o", help="The PNG to write; - writes it to stdout.")
    ] = "upscaled.png",
    passes: Annotated[int, typer.Option(min=1, max=3, help="How many times to enlarge it.")] = 1,
    upscaler: Annotated[
        str | None,
        typer.Option(help="A plugin's upscaler, lanczos, or a .pth or .safetensors file. [default: a plugin's first]"),
    ] = None,
) -> None:
    """Enlarge a picture; a recipe in it is kept, with the enlargement added."""
    import numpy as np

    from imagegen_core.images.png import encode_png
    from imagegen_core.images.reading import as_rgb, read_picture
    from imagegen_core.images.recipe import Upscaling
    from imagegen_core.images.upscaling import upscale as enlarge
    from imagegen_core.plugins.registry import Registry
    from imagegen_core.settings import Settings

    target = Output.parse(output, count=1)
    image = read_picture(picture)
    rgb = as_rgb(image, str(picture))
    loaded = Registry.discover().upscaler(upscaler).load(Settings.load())
    enlarged = enlarge(rgb, loaded, passes)
    done = Upscaling(loaded.name, loaded.scale**passes)
    path = target.write(encode_png(np.asarray(enlarged), _text(getattr(image, "text", {}), done, picture)), 0)
    if not target.is_stdout:
        console.say(f"{path}  {enlarged.width}x{enlarged.height}, {loaded.name}")


def _text(text: Mapping[str, str], done: Upscaling, picture: Path) -> dict[str, str]:
    """The picture's text with `done` added to the recipe; foreign text stays as it is."""
    from imagegen_core.errors import PictureError
    from imagegen_core.images.recipe import OWN_CHUNK, parse_recipe, to_text

    if OWN_CHUNK not in text:
        return dict(text)
    try:
        recipe = parse_recipe(text[OWN_CHUNK], str(picture))
    except PictureError as error:
        console.say(f"{error}; its text is kept as it is")
        return dict(text)
    return dict(text) | to_text(replace(recipe, upscalings=(*recipe.upscalings, done)))
