"""The kinds of plugin projects, and the differences between them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from imagegen_core.models.hints import DEMO_BACKEND, EXAMPLE_FAMILY


class Kind(StrEnum):
    """The kind of a plugin's offer, by the words of ``imagegen plugins list``."""

    BACKEND = "backend"
    UPSCALER = "upscaler"
    STORE = "store"
    STYLE = "style"
    SAMPLER = "sampler"
    COMMAND = "command"
    ROUTE = "route"
    PROCESSOR = "processor"
    FAMILY = "family"
    EXTENSION = "extension"


@dataclass(frozen=True, slots=True)
class Traits:
    """The differences of a kind's project from the others, apart from its files.

    Attributes:
        summary: Its function as generated, in a line.
        class_suffix: The ending of its class name.
        dependencies: Its dependencies in addition to imagegen-core.
        testing: Its tests' dependencies in addition to ``imagegen-core[testing]``.
        extras: The extras of imagegen-core that it needs.
        has_kit: Whether the conformance kit has checks for the kind, beyond those of every plugin.
        untyped: Modules without types, which mypy must skip.
        warnings: Filters for deprecations in others' code, in pytest's form.
    """

    summary: str
    class_suffix: str = ""
    dependencies: tuple[str, ...] = ()
    testing: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    has_kit: bool = True
    untyped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


_DRAWN_WITH = ("imagegen-demo", DEMO_BACKEND)  # the tests need a checkpoint and a backend
# diffusers' schedulers hand tensors to numpy in a way that numpy 2 deprecates.
_OF_DIFFUSERS = (
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    "ignore:__array_wrap__ must accept context and return_scalar:DeprecationWarning",
)

TRAITS = {
    Kind.BACKEND: Traits("clouds of colour, until it has a model", "Worker", dependencies=("numpy>=1.26",)),
    Kind.UPSCALER: Traits("doubles pictures and sharpens their edges", "Upscaler", dependencies=("numpy>=1.26",)),
    Kind.STORE: Traits("one SQLite file, shared by the processes of a machine", "Store"),
    Kind.STYLE: Traits("random numbers, until it has a LoRA", testing=_DRAWN_WITH, warnings=_OF_DIFFUSERS),
    Kind.SAMPLER: Traits(
        "two-step Adams-Bashforth",
        "Scheduler",
        testing=_DRAWN_WITH,
        extras=("diffusers",),
        untyped=("diffusers.*",),
        warnings=_OF_DIFFUSERS,
    ),
    Kind.COMMAND: Traits(
        "draws a prompt with several seeds, side by side in one picture",
        dependencies=("pillow>=10.3", "typer>=0.12"),
        testing=_DRAWN_WITH,
        has_kit=False,
        warnings=_OF_DIFFUSERS,
    ),
    Kind.ROUTE: Traits(
        "draws a prompt at an address of its own",
        extras=("server",),
        testing=("httpx2>=2", *_DRAWN_WITH),
        has_kit=False,
        warnings=_OF_DIFFUSERS,
    ),
    Kind.PROCESSOR: Traits(
        "wildcards in prompts, and borders of pictures",
        dependencies=("annotated-types>=0.6", "pillow>=10.3"),
        testing=_DRAWN_WITH,
        has_kit=False,
        warnings=_OF_DIFFUSERS,
    ),
    Kind.FAMILY: Traits(
        f"{EXAMPLE_FAMILY['family_title']}, until it has a family of yours",
        "Worker",
        extras=("diffusers",),
        untyped=("diffusers.*", "transformers.*"),
        warnings=_OF_DIFFUSERS,
    ),
    Kind.EXTENSION: Traits(
        "evens out the colours of a picture while it is drawn",
        "Extension",
        dependencies=("annotated-types>=0.6",),
        testing=_DRAWN_WITH,
        extras=("diffusers",),
        has_kit=False,
        warnings=_OF_DIFFUSERS,
    ),
}
