"""Serve HTTP in this process, with replicas on a Ray cluster."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ray
from ray import serve as ray_serve
from ray.exceptions import AuthenticationError

from imagegen_core.cluster.application import INGRESS, NAME, REPLICA, replicas
from imagegen_core.cluster.authentication import LOCAL
from imagegen_core.cluster.ingress import check_store, make_app
from imagegen_core.errors import SettingsError
from imagegen_core.plugins.registry import Registry
from imagegen_core.resolution.backend_settings import check_tables, with_resolved_tables
from imagegen_core.server.run import serve as serve_app
from imagegen_core.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

_CONNECT_LIMIT = 5.0  # seconds
_TAKEN = (
    f"The Ray cluster already runs an application '{NAME}': end that server, or `serve shutdown` what was deployed, or "
    "connect to another cluster by RAY_ADDRESS"
)


def serve(settings: Settings) -> None:
    """Serve as `server.run.serve` does, with replicas on a Ray cluster.

    The cluster is the one in ``RAY_ADDRESS``, else a running one on this machine, else a new one. With
    ``RAY_ADDRESS=local`` it is always a new one.

    Raises:
        SettingsError: The store cannot be used on a cluster, the cluster cannot be reached, or it already runs such an
            application; also see `server.run.serve`.
        ImagegenError: See `server.run.serve`.
    """
    registry = Registry.discover()
    check_tables(settings, registry)
    settings = with_resolved_tables(settings, registry)
    check_store(settings)
    _check_address(os.environ.get("RAY_ADDRESS", ""))
    with _cluster():

        def make(settings: Settings) -> FastAPI:
            application = ray_serve.RunTarget(replicas(settings), name=NAME, route_prefix=None)
            ray_serve.run_many([application], wait_for_applications_running=False)
            return make_app(settings, ray_serve.get_deployment_handle(REPLICA, NAME))

        serve_app(settings, make)


def _check_address(address: str) -> None:
    """Refuse an address without a listener; Ray itself would retry for minutes.

    Raises:
        SettingsError: The address does not accept connections.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or "/" in host:  # empty, or a keyword of Ray
        return
    try:
        socket.create_connection((host, int(port)), _CONNECT_LIMIT).close()
    except OSError as error:
        raise SettingsError(
            f"No Ray cluster at RAY_ADDRESS={address} ({error}): begin one with `ray start --head`, correct the "
            "address, or unset it for a cluster of this server's own"
        ) from error


class _Place:
    """An actor as a lock: only one server owns the replicas. Ray removes it when that server ends, even by a crash."""


@contextmanager
def _cluster() -> Iterator[None]:
    """Connect to a cluster; at exit, delete the application, and shut down a cluster of this process."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry from a cluster of this process
    own = os.environ.get("RAY_ADDRESS") == LOCAL or not _join()
    if own:
        ray.init(address=LOCAL, namespace=NAME, include_dashboard=False)
    try:
        ray_serve.start(proxy_location="Disabled")  # this process serves HTTP itself
        place = _take_place()
        try:
            yield
        finally:
            if not own:  # this process's own cluster ends with it
                ray_serve.delete(NAME)
                ray.kill(place)
    finally:
        ray.shutdown()


def _join() -> bool:
    """Connect to a running cluster; return False if there is none.

    Raises:
        SettingsError: The cluster requires a different token.
    """
    try:
        ray.init(address="auto", namespace=NAME)
    except ConnectionError:
        return False
    except AuthenticationError as error:
        raise SettingsError(
            "The Ray cluster wants another token: set RAY_AUTH_MODE=token and its RAY_AUTH_TOKEN, or RAY_ADDRESS=local "
            "for a cluster of this server's own"
        ) from error
    return True


def _take_place() -> Any:
    """Reserve the application's name for this server, and take over replicas left by an earlier server.

    Raises:
        SettingsError: Another server has the name, or the application was deployed with its own ingress.
    """
    application = ray_serve.status().applications.get(NAME)
    if application and INGRESS in application.deployments:
        raise SettingsError(_TAKEN)
    actor: Any = ray.remote(num_cpus=0)(_Place)
    try:
        return actor.options(name="front").remote()
    except ValueError as error:  # Ray's error for a name in use
        raise SettingsError(_TAKEN) from error
