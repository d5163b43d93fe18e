"""What every backend's worker promises."""

from imagegen_core.testing.backend.description import DescriptionChecks
from imagegen_core.testing.backend.pictures import PictureChecks
from imagegen_core.testing.backend.requests import RequestChecks
from imagegen_core.testing.backend.resources import ResourceChecks
from imagegen_core.testing.backend.seeds import SeedChecks
from imagegen_core.testing.backend.serving import ServingChecks
from imagegen_core.testing.backend.steps import StepChecks


class BackendConformance(
    DescriptionChecks, SeedChecks, PictureChecks, RequestChecks, StepChecks, ServingChecks, ResourceChecks
):
    """The contract of a backend, to inherit from: name the `backend`.

    What the backend's description is `without` must be refused, and what its worker does not implement is skipped: the
    checks of `SteppedWorker`, `BatchInvariant` and `Previewing` are for workers that have their methods.

    Override the fixture ``settings`` where the environment should not configure the worker, as with a checkpoint that
    the tests make, and `size` where 64x64 cannot be drawn.
    """
