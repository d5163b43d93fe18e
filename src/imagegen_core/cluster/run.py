"""``imagegen serve --engine ray``: set Ray's authentication before the import of Ray, then serve."""

from __future__ import annotations

import os

from imagegen_core.cluster.authentication import choose_authentication
from imagegen_core.importing import load_named
from imagegen_core.settings import Settings


def serve(settings: Settings) -> None:
    """Serve; see `cluster.serving.serve`.

    Raises:
        ImagegenError: Ray is not installed, or see `cluster.serving.serve`.
    """
    choose_authentication(os.environ)
    load_named("The server", "imagegen_core.cluster.serving:serve")(settings)
