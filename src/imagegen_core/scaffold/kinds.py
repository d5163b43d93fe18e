"""The kinds of plugin projects, and the differences between them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from imagegen_core.models.hints import DEMO_BACKEND


class Kind(StrEnum):
    """The kind of a plugin's offer, by the words of ``imagegen plugins list``."""

    BACKEND = "backend"
    UPSCALER = "upscaler"
    STORE = "store"
    STYLE = "style"
    SAMPLER = "sampler"


@dataclass(frozen=True, slots=True)
class Traits:
    """The differences of a kind's project from the others, apart from its files.

    Attributes:
        summary: Its function as generated, in a line.
        class_suffix: The ending of its class name.
        dependencies: Its dependencies in addition to imagegen-core.
        testing: Its tests' dependencies in addition to ``imagegen-core[testing]``.
        core: Its requirement of imagegen-core, without the versions.
        untyped: Modules without types, which mypy must skip.
    """

    summary: str
    class_suffix: str = ""
    dependencies: tuple[str, ...] = ()
    testing: tuple[str, ...] = ()
    core: str = "imagegen-core"
    untyped: tuple[str, ...] = ()


_DRAWN_WITH = ("imagegen-demo", DEMO_BACKEND)  # a style or sampler needs a checkpoint and a backend

TRAITS = {
    Kind.BACKEND: Traits("clouds of colour, until it has a model", "Worker", dependencies=("numpy>=1.26",)),
    Kind.UPSCALER: Traits("doubles pictures and sharpens their edges", "Upscaler", dependencies=("numpy>=1.26",)),
    Kind.STORE: Traits("one SQLite file, shared by the processes of a machine", "Store"),
    Kind.STYLE: Traits("random numbers, until it has a LoRA", testing=_DRAWN_WITH),
    Kind.SAMPLER: Traits(
        "two-step Adams-Bashforth",
        "Scheduler",
        testing=_DRAWN_WITH,
        core="imagegen-core[diffusers]",
        untyped=("diffusers.*",),
    ),
}
