"""The same engine on many machines, by Ray Serve, which places, scales, watches and restarts the replicas."""

from imagegen_core.cluster.application import app

__all__ = ["app"]
