"""The contract of every backend's worker."""

from imagegen_core.testing.backend.callbacks import CallbackChecks
from imagegen_core.testing.backend.description import DescriptionChecks
from imagegen_core.testing.backend.pictures import PictureChecks
from imagegen_core.testing.backend.requests import RequestChecks
from imagegen_core.testing.backend.resources import ResourceChecks
from imagegen_core.testing.backend.seeds import SeedChecks
from imagegen_core.testing.backend.serving import ServingChecks
from imagegen_core.testing.backend.steps import StepChecks


class BackendConformance(  # pytest begins with the last base, so cheap checks come before long ones
    ResourceChecks,
    ServingChecks,
    CallbackChecks,
    StepChecks,
    RequestChecks,
    PictureChecks,
    SeedChecks,
    DescriptionChecks,
):
    """The contract of a backend, to inherit from: set `backend` to its name.

    The fields in the description's `without` must be refused. Checks for protocols that the worker does not implement
    are skipped: those of `SteppedWorker`, `BatchInvariant`, `ShowsPreviews` and `CallbackWorker`.

    Override the fixture ``settings`` if the environment should not configure the worker, for example for a checkpoint
    that the tests make. Override `size` if 64x64 cannot be drawn.
    """
