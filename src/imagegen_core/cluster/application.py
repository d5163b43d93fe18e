"""The Ray Serve application: the HTTP ingress and the replicas behind it."""

from __future__ import annotations

from typing import Any

import ray
from ray import serve
from ray.serve import Application

from imagegen_core.cluster.ingress import Ingress, check_store
from imagegen_core.cluster.replica import Replica
from imagegen_core.errors import SettingsError
from imagegen_core.hosting.engine_loader import placements
from imagegen_core.modes import load_modes, modes_path
from imagegen_core.plugins.registry import Registry
from imagegen_core.resolution.backend_settings import check_tables, with_resolved_tables
from imagegen_core.settings import Settings

NAME = "imagegen"
"""The default application name."""
REPLICA, INGRESS = "Replica", "Ingress"

_ONGOING = 16  # concurrent requests for each engine of a replica: its running batch, and some waiting requests
_TARGET = 8  # average of concurrent requests for each engine, with autoscaling
_INGRESS_ONGOING = 10_000  # practically unlimited, because the ingress has its own queue limit
_CONSTRUCTOR_ATTEMPTS = 3
_HEALTH_PERIOD = 5.0
_LOGGING = {"enable_access_log": False}  # the ingress logs each request itself


def app(arguments: dict[str, Any]) -> Application:
    """Build the whole application: ``serve run imagegen_core.cluster:app model=demo storage_provider=disabled``.

    Args:
        arguments: Settings by name. Other settings come from the environment and ``imagegen.toml`` of the machine
            that builds the application.

    Raises:
        ImagegenError: The settings are wrong or not supported on a cluster.
    """
    settings = Settings.load(**arguments)
    if (path := modes_path(settings)) is not None:
        settings = settings.override(modes_file=path.absolute())  # the ingress runs in a different folder
    registry = Registry.discover()
    check_tables(settings, registry)
    settings = with_resolved_tables(settings, registry)
    check_store(settings)
    deployed = serve.deployment(name=INGRESS, **ingress_options(settings))
    return deployed(serve.ingress()(Ingress)).bind(settings, replicas(settings))


def replicas(settings: Settings) -> Application:
    """Build only the replicas, for an ingress in another process.

    Raises:
        SettingsError: The modes or the numbers of replicas are configured wrong.
    """
    deployed = serve.deployment(name=REPLICA, **replica_options(settings))
    return deployed(Replica).bind(settings, load_modes(settings).find(None))


def ingress_options(settings: Settings) -> dict[str, Any]:
    """Return Ray Serve's options for the ingress."""
    return {
        "num_replicas": 1,
        "max_ongoing_requests": _INGRESS_ONGOING,
        "ray_actor_options": {"num_cpus": 0},
        "graceful_shutdown_timeout_s": settings.shutdown_limit,
        "logging_config": dict(_LOGGING),
    }


def replica_options(settings: Settings) -> dict[str, Any]:
    """Return Ray Serve's options for the replicas.

    Raises:
        SettingsError: The maximum number of replicas is less than the minimum.
    """
    return {
        **_replicas(settings),
        "max_ongoing_requests": _ONGOING * len(placements(settings)),
        "max_constructor_retry_count": _CONSTRUCTOR_ATTEMPTS,
        "health_check_period_s": _HEALTH_PERIOD,
        "graceful_shutdown_timeout_s": settings.shutdown_limit,
        "ray_actor_options": {"num_cpus": settings.replica_cpus, "num_gpus": _gpus(settings)},
        "logging_config": dict(_LOGGING),
    }


def _replicas(settings: Settings) -> dict[str, Any]:
    if settings.max_replicas is None:
        return {"num_replicas": settings.replicas}
    if settings.max_replicas < settings.replicas:
        raise SettingsError(
            f"{settings.source('max_replicas')}={settings.max_replicas} is less than "
            f"{settings.source('replicas')}={settings.replicas}: give replicas the least, and max_replicas the most"
        )
    bounds = {"min_replicas": settings.replicas, "max_replicas": settings.max_replicas}
    return {"autoscaling_config": bounds | {"target_ongoing_requests": _TARGET * len(placements(settings))}}


def _gpus(settings: Settings) -> float:
    """Return a replica's number of GPUs: as configured, else one per CUDA device, else one if the cluster has any."""
    if settings.replica_gpus is not None:
        return settings.replica_gpus
    if settings.devices:
        return float(sum(device.startswith("cuda") for device in settings.devices))
    resources = ray.cluster_resources() if ray.is_initialized() else {}  # type: ignore[no-untyped-call]
    return float(resources.get("GPU", 0) > 0)
