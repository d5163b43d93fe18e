"""The hooks a plugin may implement.

A plugin is a module that an entry point of the group ``imagegen.plugins`` names. It describes what it
offers and imports nothing heavy: what it describes is imported on first use.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import typer
    from fastapi import APIRouter

    from imagegen_core.backend import Backend
    from imagegen_core.images.upscaler import UpscalerDef
    from imagegen_core.models.named import NamedModel
    from imagegen_core.samplers import Sampler
    from imagegen_core.storage.store import StoreDef
    from imagegen_core.styles import StyleDef

PROJECT = "imagegen"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def imagegen_backends() -> Iterable[Backend]:  # type: ignore[empty-body]
    """The backends this plugin offers."""


@hookspec
def imagegen_models() -> Iterable[NamedModel]:  # type: ignore[empty-body]
    """Checkpoints this plugin brings along, which a configuration can name."""


@hookspec
def imagegen_styles() -> Iterable[StyleDef]:  # type: ignore[empty-body]
    """The styles this plugin brings along, with absolute LoRA paths."""


@hookspec
def imagegen_samplers() -> Iterable[Sampler]:  # type: ignore[empty-body]
    """Schedulers this plugin adds to those that requests can name."""


@hookspec
def imagegen_upscalers() -> Iterable[UpscalerDef]:  # type: ignore[empty-body]
    """The upscalers this plugin offers."""


@hookspec
def imagegen_stores() -> Iterable[StoreDef]:  # type: ignore[empty-body]
    """Kinds of storage this plugin adds to those that ``STORAGE_PROVIDER`` can name."""


@hookspec
def imagegen_routes(app: APIRouter) -> None:
    """Add routes to the server. They are behind its API keys, and come after its own; if this raises, none is added.

    A route that changes the server for everybody takes admin keys alone where the server has them, by
    ``dependencies=[Depends(imagegen_core.server.require_admin)]``.
    """


@hookspec
def imagegen_cli(app: typer.Typer) -> None:
    """Add commands to ``imagegen``, whose own keep their names.

    Import what a command needs inside it, so that others start fast.
    """
