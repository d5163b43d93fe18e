"""Find installed distributions, and skip distributions with unreadable metadata.

`importlib.metadata` reads the metadata of all distributions for most queries, and raises if any of them is damaged.
pydantic, torch, transformers and diffusers run such queries at import. A single damaged distribution, even one that
imagegen does not use, would therefore stop every command.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from importlib.machinery import PathFinder
from importlib.metadata import (
    Distribution,
    DistributionFinder,
    EntryPoint,
    MetadataPathFinder,
    PackagePath,
    PathDistribution,
)
from pathlib import Path

_NAME_AND_VERSION = re.compile(r"(?P<name>.+?)(?:-(?P<version>[^-]+?))?\.(?:dist|egg)-info")  # a folder's name
_ENTRY_POINTS = "entry_points.txt"


@dataclass(frozen=True, slots=True)
class BrokenDistribution:
    """A distribution with unreadable metadata.

    Attributes:
        name: Its name, from its folder's name.
        version: Its version, from its folder's name; "" if the folder's name has none.
        path: The folder or file of its metadata.
        cause: The error as a sentence.
        mend: The repair as a sentence.
        entry_points: The readable text of its entry points.
    """

    name: str
    version: str
    path: str
    cause: str
    mend: str
    entry_points: str = ""

    def names(self, group: str) -> list[str]:
        """Return the readable names of its entry points in a group."""
        _, _, rest = self.entry_points.partition(f"[{group}]")
        lines = rest.partition("\n[")[0].splitlines()
        return [name.strip() for name, separator, _ in (line.partition("=") for line in lines) if separator]


def leave_out_broken_distributions() -> None:
    """Make `importlib.metadata` skip unreadable distributions on this process's path.

    imagegen's own programs call this before other imports. An application that uses imagegen as a library is not
    changed.
    """
    if PathFinder in sys.meta_path:
        sys.meta_path[sys.meta_path.index(PathFinder)] = _ReadableFinder


def broken_distributions() -> list[BrokenDistribution]:
    """Return the unreadable distributions on this process's path."""
    return [broken for distribution in _on_path() if (broken := _diagnosis(distribution))]


def duplicate_distributions() -> dict[str, list[str]]:
    """Return distributions with several copies in one folder: the metadata folders by name."""
    places: dict[tuple[Path, str], list[str]] = {}
    for distribution in _on_path():
        if _diagnosis(distribution) is None:
            place = Path(str(distribution.locate_file("")))
            places.setdefault((place, _normalized(distribution.metadata["Name"])), []).append(_path(distribution))
    return {name: paths for (_, name), paths in places.items() if len(paths) > 1}


def entry_points(group: str) -> list[EntryPoint]:
    """Return the entry points of a group, from readable distributions; of several copies, use the first."""
    readable: dict[str, Distribution] = {}
    for distribution in metadata.distributions():
        if _diagnosis(distribution) is None:
            readable.setdefault(_normalized(distribution.metadata["Name"]), distribution)
    return [entry for distribution in readable.values() for entry in distribution.entry_points if entry.group == group]


def installed_version(name: str) -> str | None:
    """Return the version of an installed distribution, or None if it is missing or unreadable."""
    for distribution in Distribution.discover(name=name):
        if _diagnosis(distribution) is None:
            return distribution.version
    return None


class _ReadableFinder(PathFinder):
    """A `PathFinder` that finds only readable distributions."""

    @staticmethod
    def find_distributions(
        context: DistributionFinder.Context = DistributionFinder.Context(),  # noqa: B008 - as importlib.metadata has it
    ) -> Iterator[PathDistribution]:
        """Find distributions: https://docs.python.org/3/library/importlib.metadata.html#implementing-custom-providers."""
        for distribution in MetadataPathFinder.find_distributions(context):
            if _diagnosis(distribution) is None:
                yield _Tolerant(Path(_path(distribution)))


class _Tolerant(PathDistribution):
    """A distribution that treats damaged lists of files as missing."""

    def read_text(self, filename: str | Path) -> str | None:  # type: ignore[override]
        try:
            return super().read_text(filename)
        except (OSError, UnicodeDecodeError):
            return None

    @property
    def files(self) -> list[PackagePath] | None:
        try:
            return super().files
        except (csv.Error, TypeError, ValueError):  # a row with too many columns
            return None


def _on_path() -> Iterable[PathDistribution]:
    return MetadataPathFinder.find_distributions()


def _path(distribution: Distribution) -> str:
    return str(getattr(distribution, "_path", ""))  # there is no public attribute


def _diagnosis(distribution: Distribution) -> BrokenDistribution | None:
    """Return the fault of a distribution, or None if it is readable or has no folder on this path."""
    return _diagnose(path) if (path := _path(distribution)) else None


@lru_cache(maxsize=4096)
def _diagnose(path: str) -> BrokenDistribution | None:
    """Return the fault of the metadata in a folder; cached, because several libraries query it."""
    match = _NAME_AND_VERSION.fullmatch(Path(path).name)
    name, version = (match["name"], match["version"] or "") if match else (Path(path).stem, "")
    if name.startswith("~"):  # pip renames a replaced distribution this way, and deletes it at the end
        return BrokenDistribution(name, version, path, "an interrupted pip left it behind", f"delete {path}")
    cause = _fault(PathDistribution(Path(path)))
    if cause is None:
        return None
    mend = f"delete {path}, then pip install --force-reinstall {name}"
    return BrokenDistribution(name, version, path, cause, mend, _damaged_text(Path(path, _ENTRY_POINTS)))


def _fault(distribution: PathDistribution) -> str | None:
    try:
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or distribution.read_text("")
    except (OSError, UnicodeDecodeError) as error:
        return f"its METADATA cannot be read ({error})"
    if not text:
        return "it has no METADATA, or none that may be read"
    header = f"\n{text.replace(chr(13), '')}".partition("\n\n")[0]
    lacking = [field for field in ("Name", "Version") if not re.search(rf"\n{field}:[ \t]*\S", header, re.IGNORECASE)]
    if lacking:
        return f"its METADATA has no {' and no '.join(lacking)}"
    try:
        list(distribution.entry_points)
    except Exception as error:  # noqa: BLE001 - the parser may raise any error for a wrong line
        return f"its {_ENTRY_POINTS} is not one of NAME = VALUE lines below [GROUP] lines ({error})"
    return None


def _damaged_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _normalized(name: str) -> str:
    """Normalize a name: https://packaging.python.org/en/latest/specifications/name-normalization."""
    return re.sub(r"[-_.]+", "-", name).lower()
