"""All styles there are, whoever brought them, and whether each fits the checkpoint that draws."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from imagegen_core.errors import ImagegenError, InvalidRequestError, ModelNotFoundError
from imagegen_core.models.inspect import describe
from imagegen_core.plugins.registry import Registry
from imagegen_core.settings import Settings
from imagegen_core.styles import STYLE_REGISTRY, StyleDef

_SCANNED_LEVELS = (0.4, 0.7, 1.0)
_SUFFIXES = (".safetensors",)


@dataclass(frozen=True, slots=True)
class CatalogedStyle:
    """A style and whether it can be used.

    Attributes:
        style: The style.
        path: Its LoRA file.
        source: Who brought it, such as ``LORA_ROOT`` or ``plugin demo``.
        refusal: Why it is skipped, in words; None where it fits.
    """

    style: StyleDef
    path: Path
    source: str
    refusal: str | None


class StyleCatalog(Mapping[str, CatalogedStyle]):
    """The styles by id. Of two with one id the first counts: by hand, in the configuration, a plugin's, a file's."""

    def __init__(self, settings: Settings, registry: Registry, width: int | None, family: str | None = None) -> None:
        """Gather the styles for a checkpoint; each file's header is read, none is loaded.

        Args:
            settings: Where to look.
            registry: The plugins.
            width: The checkpoint's cross-attention width; None where there is none to fit.
            family: The checkpoint's family, which tells where a file's width does not.

        Raises:
            ModelNotFoundError: The folder of styles that the configuration names is not there.
        """
        self._width, self._family = width, family
        self._styles: dict[str, CatalogedStyle] = {}
        for style, source in _offered(settings, registry):
            if style.id not in self._styles:
                path = _path(style, settings)
                refusal = self.refusal(path, style.required_cross_attention_dim)
                refusal = refusal if style.levels else "it has no levels: give at least one strength"
                self._styles[style.id] = CatalogedStyle(style, path, source, refusal)

    def __getitem__(self, style_id: str) -> CatalogedStyle:
        return self._styles[style_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._styles)

    def __len__(self) -> int:
        return len(self._styles)

    def refusal(self, path: Path, required_width: int | None = None) -> str | None:
        """Why a LoRA's file does not fit the checkpoint, in words; None where it does.

        Args:
            path: The file.
            required_width: The cross-attention width of the checkpoints it fits; None reads it from the file.
        """
        try:
            lora = describe(path)
        except ImagegenError as error:
            return str(error)
        if lora.kind != "lora":
            return f"{path} is no LoRA but of the kind {lora.kind}"
        wanted = required_width or lora.cross_attention_dim
        if self._width is not None and wanted is not None and wanted != self._width:
            return f"it was made for a cross-attention width of {wanted}, and the checkpoint's is {self._width}"
        if wanted is None and self._family is not None and lora.family not in (None, self._family):
            return f"it was made for {lora.family}, and the checkpoint is {self._family}"
        return None

    def usable(self, style_id: str) -> CatalogedStyle:
        """The style that a request asks for.

        Raises:
            InvalidRequestError: There is none of that id, or it is skipped; the message says why.
        """
        found = self.get(style_id)
        if found is None:
            fitting = sorted(name for name, one in self.items() if one.refusal is None)
            known = f"expected one of {', '.join(fitting)}" if fitting else "no style is installed"
            raise InvalidRequestError(f"Unknown style {style_id!r}: {known}", "style_lora.style")
        if found.refusal is not None:
            raise InvalidRequestError(f"The style {style_id!r} cannot be used: {found.refusal}", "style_lora.style")
        return found


def _offered(settings: Settings, registry: Registry) -> Iterator[tuple[StyleDef, str]]:
    for style in STYLE_REGISTRY.values():
        yield style, "STYLE_REGISTRY"
    for style_id, table in settings.styles.items():
        path = str(table.lora_path.expanduser())
        adapter = _adapter_name(style_id)
        width = table.required_cross_attention_dim
        style = StyleDef(style_id, table.title or style_id, path, adapter, tuple(table.levels), width)
        yield style, f"styles.{style_id} in the configuration"
    for plugin in registry.plugins:
        for style_id, style in registry.styles.items():
            if f"style {style_id}" in plugin.offers:
                yield style, f"plugin {plugin.name}"
    if settings.lora_root is not None:
        for file in _files_below(settings.lora_root, settings.source("lora_root")):
            style_id = file.relative_to(settings.lora_root).with_suffix("").as_posix()
            style = StyleDef(style_id, file.stem, str(file), _adapter_name(style_id), _SCANNED_LEVELS)
            yield style, settings.source("lora_root")


def _files_below(root: Path, source: str) -> Iterable[Path]:
    if not root.is_dir():
        raise ModelNotFoundError(f"The folder of styles {root} is not there: correct {source}")
    return sorted(path for path in root.rglob("*") if path.suffix in _SUFFIXES)


def _path(style: StyleDef, settings: Settings) -> Path:
    path = Path(style.lora_path).expanduser()
    if path.is_absolute() or settings.model_root is None:
        return path
    return settings.model_root / path


def _adapter_name(style_id: str) -> str:
    """A name that can stand inside a network, where a dot separates modules."""
    return re.sub(r"\W", "_", style_id)
