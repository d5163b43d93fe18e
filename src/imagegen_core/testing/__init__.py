"""The conformance kit: an author's test class inherits from one of these, and has the whole contract tested.

A test module of one class is a whole proof::

    from imagegen_core.testing import BackendConformance


    class TestMyBackend(BackendConformance):
        backend = "mine"

Each check has a name, and a docstring that says what it protects, which pytest shows where the check fails. Checks that
what is tested does not take part in are skipped with the reason. ``imagegen plugins check NAME`` runs the same checks
without a test file. It takes ``pip install 'imagegen-core[testing]'``.
"""

from imagegen_core.testing.backend import BackendConformance
from imagegen_core.testing.sampler import SamplerConformance
from imagegen_core.testing.store import StoreConformance
from imagegen_core.testing.style import StyleConformance
from imagegen_core.testing.upscaler import UpscalerConformance

__all__ = [
    "BackendConformance",
    "SamplerConformance",
    "StoreConformance",
    "StyleConformance",
    "UpscalerConformance",
]
