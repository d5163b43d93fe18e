"""The details of a plugin's offers, for programs."""

from __future__ import annotations

from typing import Any

from imagegen_core.backend import Backend
from imagegen_core.plugins.plugin import Plugin
from imagegen_core.plugins.registry import Registry


def described(plugin: Plugin, registry: Registry) -> dict[str, Any]:
    """Return a plugin's backends with the fields that each supports, and its parameters with their schemas."""
    backends = [offer for offer in registry.backends.values() if f"backend {offer.name}" in plugin.offers]
    parameters = [offer for offer in registry.parameters.values() if f"parameter {offer.name}" in plugin.offers]
    return {
        "backends": [_backend(backend, registry) for backend in backends],
        "parameters": [
            {"name": parameter.name, "schema": parameter.schema, "backends": [*parameter.backends]}
            for parameter in parameters
        ],
    }


def _backend(backend: Backend, registry: Registry) -> dict[str, Any]:
    return {
        "name": backend.name,
        "summary": backend.summary,
        "architectures": [*backend.architectures],
        "default_size": backend.default_size,
        "fields": [*backend.supported],
        "without": [*backend.lacking],
        "parameters": [
            name
            for name, parameter in registry.parameters.items()
            if parameter.fits(backend.name) and name not in backend.without
        ],
        "settings": backend.settings,
    }
