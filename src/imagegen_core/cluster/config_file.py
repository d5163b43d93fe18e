"""Write the configuration file for ``serve deploy``."""

from __future__ import annotations

from typing import Any

import yaml
from ray.serve.schema import ServeDeploySchema

from imagegen_core.cluster.application import INGRESS, NAME, REPLICA, ingress_options, replica_options
from imagegen_core.cluster.ingress import check_store
from imagegen_core.modes import load_modes, modes_path
from imagegen_core.redaction import redact
from imagegen_core.server.access import check_address
from imagegen_core.settings import Settings, variables

_ELSEWHERE = {"engine", "host", "port", "replicas", "max_replicas", "shutdown_limit"}
"""Settings in Ray Serve's own options, excluded from the application's arguments."""


def config_text(settings: Settings) -> str:
    """Return the settings as a Ray Serve configuration in YAML; comments replace secrets.

    Raises:
        SettingsError: The settings are wrong or not supported on a cluster.
    """
    check_address(settings)
    check_store(settings)
    load_modes(settings)
    secrets = _secrets(settings)
    config = {
        "proxy_location": "EveryNode",
        "http_options": {"host": settings.host, "port": settings.port},
        "applications": [
            {
                "name": NAME,
                "route_prefix": "/",
                "import_path": "imagegen_core.cluster:app",
                "args": _arguments(settings, secrets),
                "deployments": [
                    {"name": INGRESS, **ingress_options(settings)},
                    {"name": REPLICA, **_tunable(replica_options(settings))},
                ],
            }
        ],
    }
    ServeDeploySchema.model_validate(config)
    return _comment(secrets) + yaml.safe_dump(config, sort_keys=False)


def _arguments(settings: Settings, secrets: set[str]) -> dict[str, Any]:
    arguments = settings.model_dump(mode="json", exclude_unset=True, exclude=_ELSEWHERE | secrets)
    if (path := modes_path(settings)) is not None:
        arguments["modes_file"] = str(path.absolute())
    return arguments


def _tunable(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options without CPUs and GPUs; the application's arguments or the cluster determine these."""
    return {name: value for name, value in options.items() if name != "ray_actor_options"}


def _secrets(settings: Settings) -> set[str]:
    """Return the names of settings with secret values."""
    secrets = {name for name in ("api_keys", "admin_keys") if getattr(settings, name)}
    if settings.storage_url and redact(settings.storage_url) != settings.storage_url:
        secrets.add("storage_url")
    return secrets


def _comment(secrets: set[str]) -> str:
    lines = ["# For `serve deploy`. Written by `imagegen cluster config`."]
    lines += [
        f"# Set {variables(secret)[0]} in the environment of `ray start` on all machines: secrets are not written here."
        for secret in sorted(secrets)
    ]
    return "\n".join(lines) + "\n"
