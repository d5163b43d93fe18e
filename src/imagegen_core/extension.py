"""Description of a denoising extension, for plugins to register, and its lazy import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from imagegen_core.errors import ImagegenError, PluginError
from imagegen_core.importing import in_words, load_named


@dataclass(frozen=True, slots=True)
class ExtensionDef:
    """Description of a denoising extension; creating it imports none of its libraries.

    Attributes:
        name: The extension's name; no other plugin's extension may have it.
        summary: One line for lists.
        factory: ``module:Class`` of its `imagegen_core.diffusion.Extension`. Each worker with a fitting checkpoint
            imports it at load, and calls it with its `imagegen_core.diffusion.LoadedModel`.
        architectures: The checkpoint families that it supports; empty for all.
    """

    name: str
    summary: str
    factory: str
    architectures: tuple[str, ...] = ()

    def load(self, model: Any) -> Any:
        """Make the `imagegen_core.diffusion.Extension` for an `imagegen_core.diffusion.LoadedModel`.

        Raises:
            PluginError: The factory's module does not import, has no such name, or raises an error.
        """
        subject = f"Extension '{self.name}'"
        factory = load_named(subject, self.factory)
        try:
            return factory(model)
        except ImagegenError:
            raise
        except Exception as error:
            raise PluginError(
                f"{subject} cannot be used, {self.factory} raised {in_words(error)}: update its plugin, or disable it "
                "with IMAGEGEN_PLUGINS_DISABLED"
            ) from error
