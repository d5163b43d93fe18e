"""Compare the requirements of a distribution with the installed distributions."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement

from imagegen_core.distributions import installed_version


def unmet(distribution: str) -> Iterator[str]:
    """Yield a sentence with a mend for each requirement that is not met, also for those of the extras that it asks for.

    The form of requirements: https://packaging.python.org/en/latest/specifications/dependency-specifiers.

    Args:
        distribution: The name of an installed distribution.
    """
    try:
        yield from _unmet(distribution, "", set())
    except PackageNotFoundError:  # a folder on the path without metadata has no requirements
        return


def _unmet(distribution: str, extra: str, seen: set[tuple[str, str]]) -> Iterator[str]:
    """Yield the sentences for one extra of a distribution, or for the distribution without extras."""
    if (distribution, extra) in seen:
        return
    seen.add((distribution, extra))
    for text in requires(distribution) or ():
        try:
            requirement = Requirement(text)
            if not _belongs(requirement, extra):
                continue
            installed = installed_version(requirement.name)
            met = installed is not None and requirement.specifier.contains(installed, prereleases=True)
        except ValueError as error:  # the form of a requirement or of a version
            reason = " ".join(str(error).split())
            yield f"its requirement {text!r} has the wrong form ({reason}): report it to the authors of {distribution}"
            continue
        if met:
            for wanted in sorted(requirement.extras):
                yield from _unmet(requirement.name, wanted, seen)
        else:
            extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
            needed = f"{requirement.name}{extras}{requirement.specifier}"
            state = f"and {requirement.name} {installed} is installed" if installed else "which is not installed"
            yield f"it needs {needed}, {state}: pip install '{needed}'"


def _belongs(requirement: Requirement, extra: str) -> bool:
    """Return whether a requirement applies here, and because of this extra."""
    if requirement.marker is None:
        return not extra
    applies = requirement.marker.evaluate({"extra": extra})
    return applies and not (extra and requirement.marker.evaluate({"extra": ""}))
