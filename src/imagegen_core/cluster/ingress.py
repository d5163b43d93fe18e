"""The side that speaks HTTP: the server's application, whose pictures are drawn by replicas."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from imagegen_core.cluster.models import ClusterModelHost
from imagegen_core.errors import SettingsError
from imagegen_core.hosting.mode_manager import ModeManager
from imagegen_core.plugins.registry import Registry
from imagegen_core.server.app import app_of
from imagegen_core.server.context import ServerContext
from imagegen_core.server.log import log_as_json
from imagegen_core.settings import Settings

_DISABLED = "disabled"


def check_store(settings: Settings) -> None:
    """Refuse a store that other machines do not see.

    Raises:
        SettingsError: It is in one process's memory.
        PluginError: There is no such store.
    """
    if settings.storage_provider == _DISABLED:
        return
    if not Registry.discover().store(settings.storage_provider).shared:
        raise SettingsError(
            f"STORAGE_PROVIDER={settings.storage_provider} keeps pictures in one process, and a cluster has several, "
            "which come and go: set redis, filesystem with a folder or object store that all machines see, or disabled"
        )


def make_app(settings: Settings, drawers: DeploymentHandle[Any], *, fixed: str = "") -> FastAPI:
    """The server's application, drawing with the deployment of `Replica`.

    Args:
        settings: How it serves.
        drawers: What it draws with.
        fixed: Why its modes are not read again, where they are not: see `ModeManager`.

    Raises:
        ImagegenError: The modes are configured wrong, or the storage or upscaler that is cannot be used.
    """
    check_store(settings)
    registry = Registry.discover()
    model = ModeManager(settings, registry, ClusterModelHost(drawers, settings, registry), fixed=fixed)
    return app_of(ServerContext(settings, registry, model))


class Ingress:
    """The application as a deployment, for `serve run` and `serve deploy`: one replica, which holds the posted jobs."""

    async def __init__(self, settings: Settings, drawers: DeploymentHandle[Any]) -> None:  # type: ignore[misc] # awaited
        """Return once the default mode can be drawn, so that in an update the one before serves until then.

        Raises:
            SettingsError: There are to be several.
            ImagegenError: The default mode cannot be drawn, or as `make_app` raises.
        """
        if serve.get_replica_context().world_size > 1:
            raise SettingsError(
                "The deployment Front takes num_replicas: 1, since the one holds what was posted to /v1/jobs: for more "
                "requests than it answers, run a second application behind the same load balancer"
            )
        log_as_json()
        self._app = make_app(
            settings,
            drawers,
            fixed="The modes stand as they were deployed: change the configuration, and `serve deploy` it again",
        )
        context: ServerContext = self._app.state.context
        await context.mode_manager.bring(context.mode_manager.modes.find(None))

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The application, as Ray Serve asks for it."""
        return self._app

    async def __del__(self) -> None:
        """Finish the jobs that nobody waits for at the moment; Ray Serve awaits this."""
        if not hasattr(self, "_app"):  # it did not come to be
            return
        context: ServerContext = self._app.state.context
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(context.done(), context.settings.shutdown_limit)
