"""The conformance kit: a test class inherits from a kit, and tests the whole contract.

A complete test module has one class::

    from imagegen_core.testing import BackendConformance


    class TestMyBackend(BackendConformance):
        backend = "mine"

Each check has a name, and a docstring with its purpose. pytest shows it if the check fails. Checks that do not apply
are skipped with the reason. ``imagegen plugins check NAME`` runs the same checks without a test file. The kit needs
``pip install 'imagegen-core[testing]'``.
"""

from imagegen_core.testing.backend import BackendConformance
from imagegen_core.testing.plugin import PluginConformance
from imagegen_core.testing.sampler import SamplerConformance
from imagegen_core.testing.store import StoreConformance
from imagegen_core.testing.style import StyleConformance
from imagegen_core.testing.upscaler import UpscalerConformance

__all__ = [
    "BackendConformance",
    "PluginConformance",
    "SamplerConformance",
    "StoreConformance",
    "StyleConformance",
    "UpscalerConformance",
]
