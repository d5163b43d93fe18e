"""``imagegen models``: list the available checkpoints, and describe files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imagegen_core.cli import console

if TYPE_CHECKING:
    from imagegen_core.models.description import Description
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

    root = Settings.load().model_root
    named = Registry.discover().models.values()
    rows = [_row(model.name, model.path, model.summary) for model in named]
    if root is not None:
        rows += [_row(str(path.relative_to(root)), path, "") for path in checkpoints_below(root)]
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
    from imagegen_core.models.inspect import describe
    from imagegen_core.models.locate import locate
    from imagegen_core.plugins.registry import Registry
    from imagegen_core.settings import Settings

    registry = Registry.discover()
    description = describe(locate(path, Settings.load().model_root, registry.models))
    loaders = _loaders(description, registry)
    if as_json:
        console.json_data({**asdict(description), "path": _printable(description.path), "loaded_by": loaders})
        return
    for name, value in _facts(description, loaders).items():
        if value:
            console.data(f"{name:<17}{value}")


def _row(name: str, path: Path, note: str) -> dict[str, str]:
    from imagegen_core.errors import ModelLoadError
    from imagegen_core.models.inspect import describe

    row = {"name": name, "kind": "", "family": "unusable", "size": "", "note": note, "path": str(path)}
    try:
        description = describe(path)
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


def _loaders(description: Description, registry: Registry) -> list[str]:
    """List the installed backends for a model's family."""
    from imagegen_core.resolution.backends import backends_for

    return [backend.name for backend in backends_for(registry, description.family)] if description.family else []


def _facts(description: Description, loaders: list[str]) -> dict[str, Any]:
    return {
        "path": _printable(description.path),
        "kind": f"{description.kind} ({description.algorithm})"
        if description.algorithm not in (None, description.kind)
        else description.kind,
        "family": description.family or "unknown from its tensors",
        "layout": f"{description.layout} ({description.format})",
        "holds": ", ".join(description.components),
        "lacks": ", ".join(description.missing),
        "cross-attention": description.cross_attention_dim,
        "input channels": description.input_channels,
        "native size": description.native_size,
        "dtype": ", ".join(description.dtypes),
        "parameters": _human(description.parameters / _THOUSAND, "k", "M", "B"),
        "size on disk": _human(description.size / _THOUSAND, "kB", "MB", "GB"),
        "loaded by": _advice(description.family, loaders),
    }


def _advice(family: str | None, loaders: list[str]) -> str:
    from imagegen_core.models.families import how_to_get

    if loaders:
        return ", ".join(f"backend {name}" for name in loaders)
    return f"no installed backend: {how_to_get(family)}" if family else ""


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
