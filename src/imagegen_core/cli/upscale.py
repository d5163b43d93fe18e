"""``imagegen upscale``: enlarge a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imagegen_core.cli import console
from imagegen_core.cli.output import Output


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
    """Enlarge a picture; keep its recipe, and add the enlargement to it."""
    import numpy as np

    from imagegen_core.images.png import encode_png
    from imagegen_core.images.recipe import Upscaling, with_upscaling
    from imagegen_core.images.upscaling import upscale as enlarge
    from imagegen_core.picture_files.decode import PictureFile, as_rgb
    from imagegen_core.plugins.registry import Registry
    from imagegen_core.settings import Settings

    target = Output.parse(output, count=1)
    file = PictureFile.read(picture)
    rgb = as_rgb(file.decode(), str(picture))
    loaded = Registry.discover().upscaler(upscaler).load(Settings.load())
    enlarged = enlarge(rgb, loaded, passes)
    done = Upscaling(loaded.name, loaded.scale**passes)
    path = target.write(encode_png(np.asarray(enlarged), with_upscaling(file.text, done, str(picture))), 0)
    if not target.is_stdout:
        console.say(f"{path}  {enlarged.width}x{enlarged.height}, {loaded.name}")
