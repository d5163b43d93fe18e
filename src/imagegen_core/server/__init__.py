"""The engine behind HTTP: a FastAPI application, with the APIs people's programs already speak."""

from imagegen_core.server.access import require_admin as require_admin
from imagegen_core.server.app import create_app as create_app
