"""The server in this process, its replicas on a Ray cluster."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ray
from ray import serve as ray_serve
from ray.exceptions import AuthenticationError

from imagegen_core.cluster.application import DRAWER, FRONT, NAME, drawers
from imagegen_core.cluster.authentication import LOCAL
from imagegen_core.cluster.ingress import check_store, make_app
from imagegen_core.errors import SettingsError
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

    It is the one that ``RAY_ADDRESS`` names, else the one that runs on this machine, else one of its own, as with
    ``RAY_ADDRESS=local``.

    Raises:
        SettingsError: As there, or the store is not for a cluster, or the cluster cannot be reached, or runs such an
            application already.
        ImagegenError: As there.
    """
    check_store(settings)
    _check_address(os.environ.get("RAY_ADDRESS", ""))
    with _cluster():

        def make(settings: Settings) -> FastAPI:
            application = ray_serve.RunTarget(drawers(settings), name=NAME, route_prefix=None)
            ray_serve.run_many([application], wait_for_applications_running=False)
            return make_app(settings, ray_serve.get_deployment_handle(DRAWER, NAME))

        serve_app(settings, make)


def _check_address(address: str) -> None:
    """Refuse an address where nobody listens, which Ray itself tries for minutes.

    Raises:
        SettingsError: Nobody does.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or "/" in host:  # nothing, or one of Ray's words
        return
    try:
        socket.create_connection((host, int(port)), _CONNECT_LIMIT).close()
    except OSError as error:
        raise SettingsError(
            f"No Ray cluster at RAY_ADDRESS={address} ({error}): begin one with `ray start --head`, correct the "
            "address, or unset it for a cluster of this server's own"
        ) from error


class _Place:
    """Taken by the one server whose replicas these are; Ray frees it when that ends, however it does."""


@contextmanager
def _cluster() -> Iterator[None]:
    """Connected to a cluster, on which the application ends with this; one of this process's own ends too."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of Ray's own clusters, nobody else is told
    own = os.environ.get("RAY_ADDRESS") == LOCAL or not _join()
    if own:
        ray.init(address=LOCAL, namespace=NAME, include_dashboard=False)
    try:
        ray_serve.start(proxy_location="Disabled")  # HTTP is this process's
        place = _take_place()
        try:
            yield
        finally:
            if not own:  # else it ends anyway
                ray_serve.delete(NAME)
                ray.kill(place)
    finally:
        ray.shutdown()


def _join() -> bool:
    """Connect to a cluster that runs already; False where there is none.

    Raises:
        SettingsError: It wants another token.
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
    """Have the application's name for this server; replicas that one before left behind become this one's.

    Raises:
        SettingsError: Another server has it, or it was deployed with a front of its own.
    """
    application = ray_serve.status().applications.get(NAME)
    if application and FRONT in application.deployments:
        raise SettingsError(_TAKEN)
    actor: Any = ray.remote(num_cpus=0)(_Place)
    try:
        return actor.options(name="front").remote()
    except ValueError as error:  # as Ray says that the name is taken
        raise SettingsError(_TAKEN) from error
