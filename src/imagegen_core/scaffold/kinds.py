"""The kinds of plugin that a project can be begun for, and how each project differs from the others."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a plugin offers; the words are those of ``imagegen plugins list``."""

    BACKEND = "backend"
    UPSCALER = "upscaler"
    STORE = "store"
    STYLE = "style"
    SAMPLER = "sampler"


@dataclass(frozen=True, slots=True)
class Traits:
    """How a kind's project differs from the others, beside its files.

    Attributes:
        summary: What it does as it is written, in a line.
        class_suffix: What the name of its class ends in.
        dependencies: What it needs, beside imagegen-core or an extra of it.
        testing: What its tests need, beside ``imagegen-core[testing]``.
        core: Its requirement of imagegen-core, before the versions.
        untyped: Modules without types, which mypy must leave alone.
    """

    summary: str
    class_suffix: str = ""
    dependencies: tuple[str, ...] = ()
    testing: tuple[str, ...] = ()
    core: str = "imagegen-core"
    untyped: tuple[str, ...] = ()


_DRAWN_WITH = ("imagegen-demo", "imagegen-sdxl")  # a style or sampler is nothing without a checkpoint and a backend

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
