"""``imagegen serve --engine ray``: decides on Ray's authentication before Ray is imported, and serves."""

from __future__ import annotations

import os

from imagegen_core.cluster.authentication import choose_authentication
from imagegen_core.importing import load_named
from imagegen_core.settings import Settings


def serve(settings: Settings) -> None:
    """Serve as `cluster.serving.serve` does.

    Raises:
        ImagegenError: As there, or Ray is not installed.
    """
    choose_authentication(os.environ)
    load_named("The server", "imagegen_core.cluster.serving:serve")(settings)
