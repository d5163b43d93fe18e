"""The same engine on many machines, by Ray Serve, which places, scales, watches and restarts the replicas."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagegen_core.cluster.application import app as app

__all__ = ["app"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Load the application on first use: what Ray reads from the environment when it is imported is set before."""
        if name != "app":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from imagegen_core.cluster.application import app

        return app
