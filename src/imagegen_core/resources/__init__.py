"""The available memory and CPUs of this process, also in a container."""
