"""The plugin system: discovery by entry points, pluggy hooks, and diagnosis of faults."""
