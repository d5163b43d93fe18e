"""Addresses of the server's routes as its clients see them, with the prefix of a proxy or a mount."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from fastapi import Request


def path_to(request: Request, route: str, **parameters: Any) -> str:
    """Return a route's path, such as ``/ai/v1/jobs/job-1``."""
    below: str = request.scope.get("root_path", "")
    own: str = request.app.url_path_for(route, **parameters)
    return quote(below.rstrip("/")) + own


def url_to(request: Request, route: str, **parameters: Any) -> str:
    """Return a route's complete URL."""
    return str(request.url.replace(path=path_to(request, route, **parameters), query="", fragment=""))
