"""Run the engine on many machines with Ray Serve; it places, scales, monitors and restarts the replicas."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagegen_core.cluster.application import app as app

__all__ = ["app"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Load the application on first use, because Ray reads its environment variables at import."""
        if name != "app":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from imagegen_core.cluster.application import app

        return app
