"""``imagegen models``: list the available checkpoints, and describe files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imagegen_core.cli import console

if TYPE_CHECKING:
    from imagegen_core.description import Description
    from imagegen_core.plugins.registry import Registry

app = typer.Typer(help="See the checkpoints that can be named, and what a file is.")

_THOUSAND = 1000

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """List the plugins' named models and the checkpoints below the model root; give a reason for unusable ones."""
    from imagegen_core.models.locate import checkpoints_below
    from imagegen_core.plugins.registry import Registry
    from imagegen_core.settings import Settings

    root, registry = Settings.load().model_root, Registry.discover()
    rows = [_row(model.name, model.path, model.summary, registry) for model in registry.models.values()]
    if root is not None:
        paths = checkpoints_below(root, registry.formats.values())
        rows += [_row(str(path.relative_to(root)), path, "", registry) for path in paths]
    rows = [{column: _printable(text) for column, text in row.items()} for row in rows]
    if as_json:
        console.json_data(rows)
        return
    if not rows:
        console.say("No checkpoint found: set MODEL_ROOT to the folder that holds yours, or pip install imagegen-demo")
    columns = ("name", "kind", "family", "size", "note")
    console.table({column: [row[column] for row in rows] for column in columns})


@app.command("inspect")
def inspect_model(
    path: Annotated[
        str,
        typer.Argument(help="A weights file or a diffusers-format folder: a path, a name below MODEL_ROOT, or demo."),
    ],
    as_json: Json = False,
) -> None:
    """Describe a model by its header alone, and list the backends for it."""
    from imagegen_core.models.inspect import Recognized, describe
    from imagegen_core.models.locate import locate
    from imagegen_core.plugins.registry import Registry
    from imagegen_core.resolution.backends import backends_for, how_to_draw
    from imagegen_core.settings import Settings

    registry, settings = Registry.discover(), Settings.load()
    description = describe(locate(path, settings.model_root, registry.models), registry)
    wanted = Recognized(description.format, description.family)
    loaders = [backend.name for backend in backends_for(registry, settings, wanted)]
    if as_json:
        console.json_data({**asdict(description), "path": _printable(description.path), "loaded_by": loaders})
        return
    is_known = description.family or description.format in registry.formats
    advice = f"no installed backend: {how_to_draw(registry, wanted)}" if is_known else ""
    loaded_by = ", ".join(f"backend {name}" for name in loaders) or advice
    for name, value in {**_facts(description, registry), "loaded by": loaded_by}.items():
        if value:
            console.data(f"{name:<17}{value}")


def _row(name: str, path: Path, note: str, registry: Registry) -> dict[str, str]:
    from imagegen_core.errors import ModelLoadError
    from imagegen_core.models.inspect import describe

    row = {"name": name, "kind": "", "family": "unusable", "size": "", "note": note, "path": str(path)}
    try:
        description = describe(path, registry)
    except ModelLoadError as error:
        return {**row, "note": str(error)}
    missing = f"incomplete: without {', '.join(description.missing)}" if description.missing else ""
    return {
        **row,
        "kind": description.kind,
        "family": description.family or "",
        "size": description.native_size or "",
        "note": "; ".join(part for part in (note, missing) if part),
    }


def _facts(description: Description, registry: Registry) -> dict[str, Any]:
    family = registry.families.get(description.family or "")
    return {
        "path": _printable(description.path),
        "kind": f"{description.kind} ({description.algorithm})"
        if description.algorithm not in (None, description.kind)
        else description.kind,
        "family": f"{family.name} ({family.title})" if family else description.family or "unknown",
        "layout": f"{description.layout} ({description.format})",
        "holds": ", ".join(description.components),
        "lacks": ", ".join(description.missing),
        "cross-attention": description.cross_attention_dim,
        "input channels": description.input_channels,
        "native size": description.native_size,
        "dtype": ", ".join(description.dtypes),
        "parameters": _human(description.parameters / _THOUSAND, "k", "M", "B") if description.parameters else "",
        "size on disk": _human(description.size / _THOUSAND, "kB", "MB", "GB"),
    }


def _human(number: float, *units: str) -> str:
    """Format a number with one decimal in the largest fitting unit, in steps of a thousand: ``859.5 M``."""
    for unit in units[:-1]:
        if round(number, 1) < _THOUSAND:
            return f"{number:.1f} {unit}"
        number /= _THOUSAND
    return f"{number:.1f} {units[-1]}"


def _printable(text: object) -> str:
    """Return a path as text, escaping names that are no valid text."""
    return str(text).encode("utf-8", "backslashreplace").decode()
