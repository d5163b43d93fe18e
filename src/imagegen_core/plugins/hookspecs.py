"""The hooks for plugins.

A plugin is a module that an entry point of the group ``imagegen.plugins`` names. It describes its offers without heavy
imports. imagegen imports an offer on first use.

The hooks are called as pluggy documents (https://pluggy.readthedocs.io): in the order of the entry points' names,
``tryfirst`` before and ``trylast`` after the others, wrappers around them. A hook that this imagegen-core does not know
is refused, unless it is marked ``optionalhook=True``.
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
    from imagegen_core.job import Event, Job
    from imagegen_core.models.named import NamedModel
    from imagegen_core.parameter import Parameter
    from imagegen_core.picture import Picture
    from imagegen_core.request import GenerateRequest
    from imagegen_core.samplers import Sampler
    from imagegen_core.settings import Settings
    from imagegen_core.storage.store import StoreDef
    from imagegen_core.styles import StyleDef

PROJECT = "imagegen"

JOB_HOOKS = frozenset(
    ("imagegen_request", "imagegen_picture", "imagegen_job_event", "imagegen_startup", "imagegen_shutdown")
)
"""The hooks around jobs; the others describe a plugin's offers."""

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
def imagegen_parameters() -> Iterable[Parameter]:  # type: ignore[empty-body]
    """Return this plugin's additional fields of requests.

    They are fields of the JSON bodies of ``/generate``, ``/v1/jobs``, OpenAI's and A1111's routes, ``--set`` options of
    ``imagegen generate``, keys of a mode's ``parameters``, and fields of the page. Hooks and workers read them from
    ``request.parameters``. A picture's recipe has the values that differ from the defaults.
    """


@hookspec
def imagegen_request(request: GenerateRequest) -> GenerateRequest | None:
    """Change a request before it is drawn, or refuse it by `InvalidRequestError`; None leaves it as it is.

    Each plugin gets the result of the plugin before. The request is complete: it has its seed, the defaults of its mode
    and server, and its parameters. Change a copy: ``request.model_copy(update={"prompt": …})``. The recipe has the
    changed request, so ``imagegen replay`` does not call this hook. It may take 60 s. An error fails this request
    alone.
    """


@hookspec
def imagegen_picture(picture: Picture, request: GenerateRequest) -> Picture | None:
    """Change a finished picture; None leaves it as it is.

    Each plugin gets the result of the plugin before, and the request as it was drawn. A change must follow from the
    picture and the request, so that ``imagegen replay`` draws the same bytes. The picture's recipe already names this
    plugin; imagegen puts it back if the plugin's PNG lacks it. The hook runs where the pictures are drawn, on a cluster
    on its replicas. It may take 60 s. An error fails this picture alone.
    """


@hookspec
def imagegen_job_event(job: Job, event: Event) -> None:
    """Hear of a job's event, such as `Started`, `StepDone` or `Done`; `Job.id` tells jobs apart.

    A thread of its own calls this, so a slow plugin delays no picture. Errors are logged.
    """


@hookspec
def imagegen_startup(settings: Settings) -> None:
    """Prepare before the first picture of a server, a replica, a command, or a call of `imagegen_core.generate`.

    It may take 10 s. Errors are logged.
    """


@hookspec
def imagegen_shutdown() -> None:
    """Clean up after the last picture, and after its last event; see `imagegen_startup`."""


@hookspec
def imagegen_routes(app: APIRouter) -> None:
    """Add routes to the server, behind its API keys and after its own routes. If this raises, none is added.

    A route draws by `imagegen_core.server.Pictures`. Each plugin gets a router of its own.

    A route that changes the server for all clients must require an admin key, by
    ``dependencies=[Depends(imagegen_core.server.require_admin)]``. It then takes admin keys alone, if the server has
    them.
    """


@hookspec
def imagegen_cli(app: typer.Typer) -> None:
    """Add commands to ``imagegen``; its own commands keep their names. Each plugin gets an app of its own.

    Import a command's dependencies inside the command, so that other commands start fast.
    """
