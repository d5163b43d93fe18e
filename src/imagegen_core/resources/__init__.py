"""The memory and the CPUs that this process may use, also in a container."""
