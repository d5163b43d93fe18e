"""The toy backend passes the conformance tests."""

from imagegen_core.testing import BackendConformance


class TestToy(BackendConformance):
    backend = "toy"
