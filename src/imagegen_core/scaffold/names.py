"""The names of a new plugin."""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from importlib.util import find_spec

from imagegen_core.errors import ImagegenError, InvalidRequestError
from imagegen_core.plugins.registry import Registry
from imagegen_core.samplers import CHECKPOINT_CHOICE, find_sampler
from imagegen_core.scaffold.kinds import Kind

_FORM = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", re.ASCII)
_LONGEST = 30  # keeps the project's lines within the formatted length
_RESERVED = {
    (Kind.STORE, "disabled"): "STORAGE_PROVIDER=disabled turns storage off",
    (Kind.SAMPLER, CHECKPOINT_CHOICE): "it stands for the checkpoint's own scheduler",
}


# The offers of a project, if they are more than its kind's name says.
_NOUNS = {Kind.FAMILY: ("family", "backend"), Kind.EXTENSION: ("extension", "parameter")}


class ProjectError(ImagegenError):
    """A plugin's project cannot be created under that name, or in that folder."""


@dataclass(frozen=True, slots=True)
class PluginName:
    """A plugin's name, and the names derived from it.

    Attributes:
        name: The plain name, such as ``my-clouds``.
    """

    name: str

    @classmethod
    def parse(cls, text: str) -> PluginName:
        """Check a name's form.

        Raises:
            ProjectError: It is no valid name for a package or class.
        """
        if not _FORM.fullmatch(text) or len(text) > _LONGEST:
            raise ProjectError(
                f"Invalid name {text[:_LONGEST]!r}: expected a small letter, then small letters and digits with single "
                f"hyphens between them, such as my-clouds; {_LONGEST} at most"
            )
        name = cls(text)
        if keyword.iskeyword(text) or keyword.iskeyword(name.camel_case):
            raise ProjectError(f"Invalid name {text!r}: it is a word of Python's own; take another, such as my-{text}")
        return name

    @property
    def distribution(self) -> str:
        """The name of the distribution for pip."""
        return f"imagegen-{self.name}"

    @property
    def package(self) -> str:
        """The name of the package to import."""
        return f"imagegen_{self.identifier}"

    @property
    def identifier(self) -> str:
        """The name as a Python identifier."""
        return self.name.replace("-", "_")

    @property
    def camel_case(self) -> str:
        """The name in the form of a class name."""
        return "".join(part.capitalize() for part in self.name.split("-"))


def refuse_taken(name: PluginName, kind: Kind, registry: Registry) -> None:
    """Refuse the name of a new plugin if an installed one clashes.

    Raises:
        ProjectError: The name is taken, by imagegen itself or by a plugin.
    """
    if reason := _RESERVED.get((kind, name.name)):
        raise ProjectError(f"Invalid name '{name.name}' for a {kind}: {reason}; take another")
    for plugin in registry.plugins:
        taken = [f"{noun} {name.name}" in plugin.offers for noun in _NOUNS.get(kind, (kind,))]
        if any(taken) or name.name == plugin.name:
            raise ProjectError(
                f"The name '{name.name}' is taken by the installed plugin {plugin.distribution}: take another name, or "
                f"pip uninstall {plugin.distribution}"
            )
    if _is_own(name.name, kind, registry):
        raise ProjectError(f"The name '{name.name}' is taken by imagegen's own {kind}: take another name")
    if find_spec(name.package):
        raise ProjectError(f"A package {name.package} is installed already: take another name, or uninstall it")


def _is_own(name: str, kind: Kind, registry: Registry) -> bool:
    if kind is Kind.SAMPLER:
        try:  # case and hyphens do not matter in a sampler's name
            find_sampler(name, registry.samplers.values())
        except InvalidRequestError:
            return False
        return True
    return (kind is Kind.UPSCALER and name in registry.upscalers) or (kind is Kind.STORE and name in registry.stores)
