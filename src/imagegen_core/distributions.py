"""The installed distributions, and those of them whose metadata cannot be read.

`importlib.metadata` answers most questions from the metadata of all distributions, and raises where one of them is
damaged. pydantic, torch, transformers and diffusers ask such questions when they are imported, so that a single damaged
distribution, of no use to imagegen, would stop every command.
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
    """A distribution whose metadata cannot be read.

    Attributes:
        name: What it is called, by its folder's name.
        version: Its version, by its folder's name; "" where that does not tell.
        path: The folder, or file, of its metadata.
        cause: What is wrong, in a sentence.
        mend: What to do about it, in a sentence.
        entry_points: The text of its entry points, as far as that can be read.
    """

    name: str
    version: str
    path: str
    cause: str
    mend: str
    entry_points: str = ""

    def names(self, group: str) -> list[str]:
        """The names of its entry points in a group, as far as they can be read."""
        _, _, rest = self.entry_points.partition(f"[{group}]")
        lines = rest.partition("\n[")[0].splitlines()
        return [name.strip() for name, is_one, _ in (line.partition("=") for line in lines) if is_one]


def leave_out_broken_distributions() -> None:
    """Have `importlib.metadata` pass over the distributions of this process's path that cannot be read.

    For imagegen's own programs, before they import anything that asks for distributions. An application that uses
    imagegen as a library is left as it is.
    """
    if PathFinder in sys.meta_path:
        sys.meta_path[sys.meta_path.index(PathFinder)] = _ReadableFinder


def broken_distributions() -> list[BrokenDistribution]:
    """The distributions on this process's path whose metadata cannot be read."""
    return [broken for found in _on_path() if (broken := _diagnosis(found))]


def duplicate_distributions() -> dict[str, list[str]]:
    """The distributions that one folder holds more than once: the folders of their metadata by name."""
    places: dict[tuple[Path, str], list[str]] = {}
    for found in _on_path():
        if _diagnosis(found) is None:
            place = Path(str(found.locate_file("")))
            places.setdefault((place, _normalized(found.metadata["Name"])), []).append(_path(found))
    return {name: paths for (_, name), paths in places.items() if len(paths) > 1}


def entry_points(group: str) -> list[EntryPoint]:
    """The entry points of a group, without those of broken distributions; of copies the first counts."""
    readable: dict[str, Distribution] = {}
    for found in metadata.distributions():
        if _diagnosis(found) is None:
            readable.setdefault(_normalized(found.metadata["Name"]), found)
    return [entry for found in readable.values() for entry in found.entry_points if entry.group == group]


def installed_version(name: str) -> str | None:
    """The version of an installed distribution; None where there is none, or its metadata cannot be read."""
    for found in Distribution.discover(name=name):
        if _diagnosis(found) is None:
            return found.version
    return None


class _ReadableFinder(PathFinder):
    """Finds what `PathFinder` finds, and of the distributions those that can be read."""

    @staticmethod
    def find_distributions(
        context: DistributionFinder.Context = DistributionFinder.Context(),  # noqa: B008 - as importlib.metadata has it
    ) -> Iterator[PathDistribution]:
        """Find distributions: https://docs.python.org/3/library/importlib.metadata.html#implementing-custom-providers."""
        for found in MetadataPathFinder.find_distributions(context):
            if _diagnosis(found) is None:
                yield _Tolerant(Path(_path(found)))


class _Tolerant(PathDistribution):
    """A distribution whose lists of files may be damaged: they are then as if they were not there."""

    def read_text(self, filename: str | Path) -> str | None:  # type: ignore[override]
        try:
            return super().read_text(filename)
        except (OSError, UnicodeDecodeError):
            return None

    @property
    def files(self) -> list[PackagePath] | None:
        try:
            return super().files
        except (csv.Error, TypeError, ValueError):  # a row with more columns than there are
            return None


def _on_path() -> Iterable[PathDistribution]:
    return MetadataPathFinder.find_distributions()


def _path(found: Distribution) -> str:
    return str(getattr(found, "_path", ""))  # told nowhere else


def _diagnosis(found: Distribution) -> BrokenDistribution | None:
    """What is wrong with a distribution; None where it can be read, or is no folder of this path's."""
    return _diagnose(path) if (path := _path(found)) else None


@lru_cache(maxsize=4096)
def _diagnose(path: str) -> BrokenDistribution | None:
    """What is wrong with the metadata in a folder; looked at once, as half a dozen libraries ask."""
    told = _NAME_AND_VERSION.fullmatch(Path(path).name)
    name, version = (told["name"], told["version"] or "") if told else (Path(path).stem, "")
    if name.startswith("~"):  # pip renames what it replaces so, and deletes it at the end
        return BrokenDistribution(name, version, path, "an interrupted pip left it behind", f"delete {path}")
    cause = _fault(PathDistribution(Path(path)))
    if cause is None:
        return None
    mend = f"delete {path}, then pip install --force-reinstall {name}"
    return BrokenDistribution(name, version, path, cause, mend, _damaged_text(Path(path, _ENTRY_POINTS)))


def _fault(found: PathDistribution) -> str | None:
    try:
        text = found.read_text("METADATA") or found.read_text("PKG-INFO") or found.read_text("")
    except (OSError, UnicodeDecodeError) as error:
        return f"its METADATA cannot be read ({error})"
    if not text:
        return "it has no METADATA, or none that may be read"
    header = f"\n{text.replace(chr(13), '')}".partition("\n\n")[0]
    lacking = [field for field in ("Name", "Version") if not re.search(rf"\n{field}:[ \t]*\S", header, re.IGNORECASE)]
    if lacking:
        return f"its METADATA has no {' and no '.join(lacking)}"
    try:
        list(found.entry_points)
    except Exception as error:  # noqa: BLE001 - the parser raises whatever a wrong line leads to
        return f"its {_ENTRY_POINTS} is not one of NAME = VALUE lines below [GROUP] lines ({error})"
    return None


def _damaged_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _normalized(name: str) -> str:
    """A name as https://packaging.python.org/en/latest/specifications/name-normalization compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
