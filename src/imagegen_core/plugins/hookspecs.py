"""The hooks for plugins.

A plugin is a module that an entry point of the group ``imagegen.plugins`` names. It describes its offers without heavy
imports. imagegen imports an offer on first use.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import typer
    from fastapi import APIRouter

    from imagegen_core.backend import Backend
    from imagegen_core.extension import ExtensionDef
    from imagegen_core.family import Family
    from imagegen_core.format import Format
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
    """Return the backends of this plugin."""


@hookspec
def imagegen_families() -> Iterable[Family]:  # type: ignore[empty-body]
    """Return the families of checkpoints that this plugin knows, for files and folders to be recognized."""


@hookspec
def imagegen_formats() -> Iterable[Format]:  # type: ignore[empty-body]
    """Return this plugin's formats of model files, other than weights files and diffusers-format folders."""


@hookspec
def imagegen_models() -> Iterable[NamedModel]:  # type: ignore[empty-body]
    """Return the checkpoints of this plugin, for configurations to name."""


@hookspec
def imagegen_styles() -> Iterable[StyleDef]:  # type: ignore[empty-body]
    """Return the styles of this plugin, with absolute LoRA paths."""


@hookspec
def imagegen_samplers() -> Iterable[Sampler]:  # type: ignore[empty-body]
    """Return this plugin's additional schedulers for requests."""


@hookspec
def imagegen_extensions() -> Iterable[ExtensionDef]:  # type: ignore[empty-body]
    """Return this plugin's denoising extensions, for the workers that build on `imagegen_core.diffusion`."""


@hookspec
def imagegen_upscalers() -> Iterable[UpscalerDef]:  # type: ignore[empty-body]
    """Return the upscalers of this plugin."""


@hookspec
def imagegen_stores() -> Iterable[StoreDef]:  # type: ignore[empty-body]
    """Return this plugin's additional kinds of storage for ``STORAGE_PROVIDER``."""


@hookspec
def imagegen_routes(app: APIRouter) -> None:
    """Add routes to the server, behind its API keys and after its own routes. If this raises, none is added.

    A route that changes the server for all clients must require an admin key, by
    ``dependencies=[Depends(imagegen_core.server.require_admin)]``. It then takes admin keys alone, if the server has
    them.
    """


@hookspec
def imagegen_cli(app: typer.Typer) -> None:
    """Add commands to ``imagegen``; its own commands keep their names.

    Import a command's dependencies inside the command, so that other commands start fast.
    """
