"""Description of a family of checkpoints, for plugins to declare: its parts, and its marks in files and folders."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from imagegen_core.original_names import OriginalNames

logger = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]
"""The shapes of a weights file's tensors by their names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A family of checkpoints: networks of one architecture, that the same worker draws with.

    imagegen recognizes a weights file by its tensors' names and shapes, and a diffusers-format folder by its small JSON
    files. It loads neither, so a declaration imports no library.

    Attributes:
        name: The name in `Backend.architectures` and in messages, such as ``mine``.
        title: The name for display, such as ``My Model 2``.
        package: The distribution to install for a backend; None if no package draws this family.
        components: The components that drawing needs, by their names in ``model_index.json``. The denoising network
            comes first.
        pipelines: The values of ``_class_name`` in a folder's ``model_index.json``.
        prefixes: The component of a tensor in a whole checkpoint file, by the beginning of the tensor's name; also of
            components that drawing does not need.
        layouts: For each naming scheme of the denoising network, names of tensors that are all there, below the
            network's prefix or without it. The input layer comes first. A name with a dot at its end is a beginning.
        matches_file: Tells whether a file with such a network is of this family; None means that it always is. It gets
            the shapes of all tensors by their names in the file.
        matches_folder: Tells whether a folder is of this family; None compares `pipelines`. It gets the contents of
            ``model_index.json`` and of the denoising network's ``config.json``.
        original_names: Returns diffusers' names for the names of the denoising network's original code, given the names
            of its tensors in either naming; None if files have only diffusers' names, or imagegen knows the others.
        prompt_widths: The widths of the prompt embeddings in the released checkpoints. They tell the family of a LoRA
            or a textual inversion.
        lora_marks: Regular expressions; a LoRA of unknown width with such a tensor's name is of this family.
        latent_channels: The number of channels of its latents.
        latent_reduction: Pixels per latent, along each side.
        default_sampler: The sampler if neither the request nor the configuration names one; None leaves it to imagegen.
    """

    name: str
    title: str
    package: str | None
    components: tuple[str, ...]
    pipelines: tuple[str, ...] = ()
    prefixes: Mapping[str, str] = field(default_factory=dict)
    layouts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    matches_file: Callable[[Shapes], bool] | None = None
    matches_folder: Callable[[Mapping[str, Any], Mapping[str, Any]], bool] | None = None
    original_names: Callable[[Iterable[str]], OriginalNames] | None = None
    prompt_widths: tuple[int, ...] = ()
    lora_marks: tuple[str, ...] = ()
    latent_channels: int = 4
    latent_reduction: int = 8
    default_sampler: str | None = None

    @property
    def denoiser(self) -> str:
        """The component that denoises, such as ``unet`` or ``transformer``."""
        return self.components[0]

    def prefixes_of(self, component: str) -> tuple[str, ...]:
        """Return the beginnings of a component's names in a whole checkpoint file."""
        return tuple(prefix for prefix, name in self.prefixes.items() if name == component)

    def fault(self) -> str | None:
        """Return the first field that cannot be used, in words; None if all can."""
        if not self.components:
            return "components are empty, where the denoising network comes first"
        if not all(self.layouts.values()):
            return "layouts have an entry without names, where names of tensors belong"
        for mark in self.lora_marks:
            try:
                re.compile(mark)
            except re.error as error:
                return f"lora_marks hold {mark!r}, which is not a regular expression: {error}"
        return None

    def fits_file(self, shapes: Shapes) -> bool:
        """Return whether a file with a network of one of the `layouts` is of this family."""
        if self.matches_file is None:
            return True
        try:
            return bool(self.matches_file(shapes))
        except Exception as error:  # noqa: BLE001 - a plugin's fault concerns its own family alone
            self._warn("matches_file", error)
            return False

    def fits_folder(self, index: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
        """Return whether a folder is of this family, by its ``model_index.json`` and its denoising network's config."""
        if self.matches_folder is None:
            return index.get("_class_name") in self.pipelines
        try:
            return bool(self.matches_folder(index, config))
        except Exception as error:  # noqa: BLE001 - a plugin's fault concerns its own family alone
            self._warn("matches_folder", error)
            return False

    def _warn(self, function: str, error: Exception) -> None:
        logger.warning("The family %s is left out, as its %s raised %r: update its plugin", self.name, function, error)
