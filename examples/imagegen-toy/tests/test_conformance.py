"""The toy keeps the contract."""

from imagegen_core.testing import BackendConformance


class TestToy(BackendConformance):
    backend = "toy"
