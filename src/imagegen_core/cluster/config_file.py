"""Write the configuration file for ``serve deploy``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml
from pydantic import SecretBytes, SecretStr
from ray.serve.schema import ServeDeploySchema

from imagegen_core.cluster.application import INGRESS, NAME, REPLICA, ingress_options, replica_options
from imagegen_core.cluster.ingress import check_store
from imagegen_core.modes import load_modes, modes_path
from imagegen_core.plugins.registry import Registry
from imagegen_core.redaction import redact
from imagegen_core.resolution.backend_settings import check_tables, own_settings, with_resolved_tables
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
    registry = Registry.discover()
    check_tables(settings, registry)
    settings = with_resolved_tables(settings, registry)
    check_store(settings)
    load_modes(settings)
    secrets = _secrets(settings)
    settings, own_secrets = _without_own_secrets(settings, registry)
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
    return _comment([*(variables(secret)[0] for secret in secrets), *own_secrets]) + yaml.safe_dump(
        config, sort_keys=False
    )


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


def _without_own_secrets(settings: Settings, registry: Registry) -> tuple[Settings, list[str]]:
    """Return the settings without the backends' secrets, and the variables for these; pydantic's types tell them."""
    tables = {name: dict(table) for name, table in settings.tables.items()}
    found = []
    for backend in registry.backends.values():
        own = own_settings(backend, settings)
        for field in own.model_fields_set if own else ():
            if isinstance(getattr(own, field), SecretStr | SecretBytes):
                del tables[backend.name][field]
                found.append(f"{backend.environment_prefix}_{field.upper()}")
    return settings.override(tables=tables) if found else settings, found


def _comment(secrets: Iterable[str]) -> str:
    lines = ["# For `serve deploy`. Written by `imagegen cluster config`."]
    lines += [
        f"# Set {secret} in the environment of `ray start` on all machines: secrets are not written here."
        for secret in sorted(secrets)
    ]
    return "\n".join(lines) + "\n"
