"""The HTTP ingress: the server's application, with replicas to draw the pictures."""

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
from imagegen_core.storage import DISABLED


def check_store(settings: Settings) -> None:
    """Refuse a store without access from other machines.

    Raises:
        SettingsError: The store keeps pictures in the memory of one process.
        PluginError: The store does not exist.
    """
    if settings.storage_provider == DISABLED:
        return
    if not Registry.discover().store(settings.storage_provider).shared:
        raise SettingsError(
            f"STORAGE_PROVIDER={settings.storage_provider} keeps pictures in one process, and a cluster has several, "
            "which come and go: set redis, filesystem with a folder or object store that all machines see, or disabled"
        )


def make_app(settings: Settings, replicas: DeploymentHandle[Any], *, fixed: str = "") -> FastAPI:
    """Create the server's application with a deployment of `Replica`.

    Args:
        settings: The server's settings.
        replicas: The handle of the replicas.
        fixed: The reason why modes cannot be reloaded, if so; see `ModeManager`.

    Raises:
        ImagegenError: The modes are configured wrong, or the storage or the upscaler cannot be used.
    """
    check_store(settings)
    registry = Registry.discover()
    model = ModeManager(settings, registry, ClusterModelHost(replicas, settings, registry), fixed=fixed)
    return app_of(ServerContext(settings, registry, model))


class Ingress:
    """The application as a deployment for `serve run` and `serve deploy`; its single replica holds the posted jobs."""

    async def __init__(self, settings: Settings, replicas: DeploymentHandle[Any]) -> None:  # type: ignore[misc] # awaited
        """Load the default mode before this replica counts as ready; during an update, the old one serves until then.

        Raises:
            SettingsError: More than one replica is configured.
            ImagegenError: The default mode cannot be drawn, or see `make_app`.
        """
        if serve.get_replica_context().world_size > 1:
            raise SettingsError(
                "The deployment Ingress takes num_replicas: 1, because it holds the jobs of /v1/jobs: for more "
                "requests, run a second application behind the same load balancer"
            )
        log_as_json()
        self._app = make_app(
            settings,
            replicas,
            fixed="The modes stand as they were deployed: change the configuration, and `serve deploy` it again",
        )
        context: ServerContext = self._app.state.context
        await context.mode_manager.load(context.mode_manager.modes.find(None))

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application; Ray Serve calls this."""
        return self._app

    async def __del__(self) -> None:
        """Finish the open background jobs; Ray Serve awaits this."""
        if not hasattr(self, "_app"):  # `__init__` failed
            return
        context: ServerContext = self._app.state.context
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(context.done(), context.settings.shutdown_limit)
