"""The FastAPI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from imagegen_core.distributions import installed_version
from imagegen_core.engine import Engine
from imagegen_core.errors import ImagegenError, SettingsError
from imagegen_core.hosting.mode_manager import ModeManager
from imagegen_core.plugins.registry import Registry
from imagegen_core.server import a1111, errors, openai
from imagegen_core.server.access import Keys
from imagegen_core.server.config_watcher import watching
from imagegen_core.server.context import ServerContext
from imagegen_core.server.middleware.access_log import REQUEST_ID, AccessLog
from imagegen_core.server.middleware.body_limit import BodyLimit
from imagegen_core.server.middleware.head import HeadAsGet
from imagegen_core.server.middleware.hosts import HostCheck
from imagegen_core.server.middleware.json_bodies import JsonBodies, JsonRoute
from imagegen_core.server.middleware.origins import OriginCheck, plain_origin
from imagegen_core.server.middleware.proxy import BehindProxy
from imagegen_core.server.openapi import describe_parameters
from imagegen_core.server.routes import generate, jobs, modes, state, storage, superres
from imagegen_core.settings import Settings

_EXPOSED = (
    "X-Seed",
    "X-SuperRes",
    "X-Mode",
    "X-LCM-Image-Key",
    "X-SR-Model",
    "X-SR-Passes",
    "X-SR-Scale-Per-Pass",
    "X-SR-Format",
    "Retry-After",
    REQUEST_ID,
)


def create_app(settings: Settings | None = None, engine: Engine | None = None) -> FastAPI:
    """Build the server's application, to run with uvicorn or to mount in another application.

    A mounted application needs its lifespan entered: ``async with app.router.lifespan_context(app)``.

    Args:
        settings: The configuration; None reads the environment and ``imagegen.toml``.
        engine: The engine; the caller of this function closes it. None loads the configured model in the background
            when the server starts.

    Raises:
        ImagegenError: The modes' configuration is wrong, the configured store or upscaler is unusable, or the settings
            ask for an engine outside this process.
    """
    settings = Settings.load() if settings is None else settings
    if settings.engine != "local" and engine is None:
        raise SettingsError(
            f"{settings.source('engine')}={settings.engine}, and create_app draws in this process: run "
            "`imagegen serve`, or have Ray Serve run imagegen_core.cluster:app"
        )
    registry = Registry.discover()
    model = ModeManager(settings, registry) if engine is None else ModeManager.drawing_with(engine, settings, registry)
    return app_of(ServerContext(settings, registry, model))


def app_of(context: ServerContext) -> FastAPI:
    """Build the application around its routes' shared context."""
    settings = context.settings
    app = FastAPIOffline(  # its documentation pages load no scripts from other hosts
        title="imagegen",
        version=installed_version("imagegen-core") or "unknown",
        summary="Prompts into images.",
        favicon_url="page/icon.svg",
        lifespan=_lifespan,
        exception_handlers=dict.fromkeys((ImagegenError, RequestValidationError, HTTPException), _answer),
    )
    app.state.context = context
    for routes in (state, generate, superres, jobs, modes, openai, a1111):
        app.include_router(routes.router)
    if settings.storage_enable_http:
        app.include_router(storage.router)
    app.mount("/page", StaticFiles(directory=state.PAGE), name="page")
    added = APIRouter(route_class=JsonRoute)
    context.registry.add_routes(added)
    app.include_router(added)
    describe_parameters(app, context.registry.parameters.values())
    _guard(app, context)
    return app


def _guard(app: FastAPI, context: ServerContext) -> None:
    """Add the middleware. The last added runs first; only `BodyLimit` and `JsonBodies` see the body."""
    settings = context.settings
    app.add_middleware(JsonBodies)
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes, json_limit=settings.max_json_bytes)
    app.add_middleware(Keys, keys=settings.api_keys, admin_keys=settings.admin_keys)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=[plain_origin(origin) for origin in settings.cors_origins],
            allow_methods=["*"],
            allow_headers=["*"],
            allow_private_network=True,
            expose_headers=_EXPOSED,
        )
    app.add_middleware(OriginCheck, allowed=settings.cors_origins)
    app.add_middleware(HostCheck, host=settings.host, allowed=settings.allowed_hosts)
    app.add_middleware(HeadAsGet)
    app.add_middleware(AccessLog, context=context)
    app.add_middleware(BehindProxy, root_path=settings.root_path, trusted=settings.trusted_proxies)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    context: ServerContext = app.state.context
    await asyncio.to_thread(context.hooks.start, context.settings)
    context.mode_manager.start()
    async with watching(context.mode_manager):
        yield
    context.give_up()
    await asyncio.to_thread(context.mode_manager.close)
    await asyncio.to_thread(context.hooks.stop)


async def _answer(request: Any, error: Exception) -> Any:
    return errors.answer(request, error)
