"""The HTTP server: a FastAPI application with its own API, OpenAI's and A1111's."""

from imagegen_core.server.access import require_admin as require_admin
from imagegen_core.server.app import create_app as create_app
from imagegen_core.server.pictures import Pictures as Pictures
