"""All styles from all sources, with a check that each fits the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagegen_core.description import PLAIN_FORMATS
from imagegen_core.errors import ImagegenError, InvalidRequestError, ModelNotFoundError
from imagegen_core.models.headers import read_header
from imagegen_core.models.inspect import contents_of, recognize
from imagegen_core.models.locate import folders_below
from imagegen_core.models.loras.checkpoint_layers import CheckpointLayers
from imagegen_core.models.loras.plan import plan_lora
from imagegen_core.paths import expanded
from imagegen_core.plugins.registry import Registry
from imagegen_core.settings import Settings
from imagegen_core.styles import MAX_STRENGTH, STYLE_REGISTRY, StyleDef

_SCANNED_LEVELS = (0.4, 0.7, 1.0)
_SUFFIXES = (".safetensors", ".pt", ".ckpt", ".bin")  # if two files share a name, the first suffix gets it


@dataclass(frozen=True, slots=True)
class CatalogedStyle:
    """A style, and whether a checkpoint can draw it.

    Attributes:
        id: Its name in requests.
        title: Its name for display.
        levels: Adapter weights: level 1 means ``levels[0]``.
        path: Its LoRA file.
        source: The source of its description, such as ``LORA_ROOT`` or ``plugin demo``.
        refusal: The reason to skip it, in words; None if it fits.
    """

    id: str
    title: str
    levels: tuple[float, ...]
    path: Path
    source: str
    refusal: str | None


class StyleCatalog(Mapping[str, CatalogedStyle]):
    """The styles by id. If sources share an id, the order is: STYLE_REGISTRY, configuration, plugins, files."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        width: int | None,
        family: str | None = None,
        layers: CheckpointLayers | None = None,
    ) -> None:
        """Gather the styles for a checkpoint; read each file's header, load none.

        Args:
            settings: The settings with the styles and folders.
            registry: The plugins.
            width: The checkpoint's cross-attention width; None skips this check.
            family: The checkpoint's family, checked if a file's width is unknown.
            layers: The checkpoint's layers, which every layer of a file must fit; None leaves this check to the worker.

        Raises:
            ModelNotFoundError: The configured folder of styles does not exist.
        """
        self._width, self._family, self._layers = width, family, layers
        self._registry = registry
        self._styles: dict[str, CatalogedStyle] = {}
        for style_id, style, source in _offered(settings, registry):
            if style_id not in self._styles:
                path = _path(style, settings)
                levels = tuple(style.levels)
                refusal = self.refusal(path, style.required_cross_attention_dim)
                refusal = refusal or _wrong_levels(levels)
                title = style.title or style_id
                self._styles[style_id] = CatalogedStyle(style_id, title, levels, path, source, refusal)

    @classmethod
    def of_files(cls, checkpoint: Path, settings: Settings, registry: Registry) -> StyleCatalog:
        """Gather the styles for a checkpoint by its files' headers.

        Raises:
            ModelLoadError: A file is damaged, of an undeclared family, or holds a tensor that no network takes.
            ModelNotFoundError: The configured folder of styles does not exist.
        """
        model_format, name = recognize(checkpoint, registry)
        if name is None or model_format not in PLAIN_FORMATS:
            return cls(settings, registry, None, name)
        layers = CheckpointLayers.of_files(checkpoint, registry.families[name], settings.base_model)
        return cls(settings, registry, layers.cross_attention_dim, name, layers)

    def __getitem__(self, style_id: str) -> CatalogedStyle:
        return self._styles[style_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._styles)

    def __len__(self) -> int:
        return len(self._styles)

    def refusal(self, path: Path, required_width: int | None = None) -> str | None:
        """Say why a LoRA file does not fit the checkpoint; return None if it does.

        Args:
            path: The file.
            required_width: The cross-attention width of fitting checkpoints; None reads it from the file.
        """
        try:
            header = read_header(path)
            lora = contents_of(header, self._registry)
        except ImagegenError as error:
            return str(error)
        if lora.kind != "lora":
            return f"{path} is not a LoRA but of the kind {lora.kind}"
        wanted = required_width or lora.cross_attention_dim
        if self._width is not None and wanted is not None and wanted != self._width:
            return f"it was made for a cross-attention width of {wanted}, and the checkpoint's is {self._width}"
        if wanted is None and self._family is not None and lora.family not in (None, self._family):
            return f"it was made for {lora.family}, and the checkpoint is {self._family}"
        if self._layers is not None:
            try:
                plan_lora(header, self._layers)
            except ImagegenError as error:
                return f"{path.name} does not fit this checkpoint: {error}"
        return None

    def usable(self, style_id: str) -> CatalogedStyle:
        """Return the style of a request.

        Raises:
            InvalidRequestError: No style has this id, or it is skipped; the message says why.
        """
        style = self.get(style_id)
        if style is None:
            fitting = sorted(name for name, candidate in self.items() if candidate.refusal is None)
            known = f"expected one of {', '.join(fitting)}" if fitting else "no style is installed"
            raise InvalidRequestError(f"Unknown style {style_id[:64]!r}: {known}", "style_lora.style")
        if style.refusal is not None:
            raise InvalidRequestError(f"The style {style_id!r} cannot be used: {style.refusal}", "style_lora.style")
        return style


def _wrong_levels(levels: Sequence[float]) -> str | None:
    """Say why a style's levels are invalid; return None if they are valid."""
    if not levels:
        return "it has no levels: give at least one strength"
    wrong = [level for level in levels if not abs(level) <= MAX_STRENGTH]  # also finds NaN
    return f"its level {wrong[0]:g} is not a number from -{MAX_STRENGTH:g} to {MAX_STRENGTH:g}" if wrong else None


def _offered(settings: Settings, registry: Registry) -> Iterator[tuple[str, StyleDef, str]]:
    """Yield each style with its id and the source of its description."""
    for key, style in STYLE_REGISTRY.items():
        yield style.id or key, style, "STYLE_REGISTRY"
    for style_id, table in settings.styles.items():
        style = StyleDef(
            title=table.title,
            lora_path=str(expanded(table.lora_path)),
            adapter_name=style_id,
            levels=table.levels,
            required_cross_attention_dim=table.required_cross_attention_dim,
        )
        yield style_id, style, f"styles.{style_id} in the configuration"
    for plugin in registry.plugins:
        for style_id, style in registry.styles.items():
            if f"style {style_id}" in plugin.offers:
                yield style_id, style, f"plugin {plugin.name}"
    if settings.lora_root is not None:
        source = settings.source("lora_root")
        for style_id, file in _files_below(settings.lora_root, source).items():
            style = StyleDef(title=file.stem, lora_path=str(file), adapter_name=style_id, levels=_SCANNED_LEVELS)
            yield style_id, style, source


def _files_below(root: Path, source: str) -> dict[str, Path]:
    """Map ids to LoRA files. An id is the path without suffix, or with it if another file has this id."""
    if not root.is_dir():
        raise ModelNotFoundError(f"The folder of styles {root} is not there: correct {source}")
    files = [folder / name for folder, _, names in folders_below(root) for name in names]
    styles: dict[str, Path] = {}
    for suffix in _SUFFIXES:
        for file in sorted(file for file in files if file.suffix.lower() == suffix):
            whole = file.relative_to(root)
            name = whole.with_suffix("").as_posix()
            styles[whole.as_posix() if name in styles else name] = file.absolute()
    return styles


def _path(style: StyleDef, settings: Settings) -> Path:
    path = expanded(style.lora_path)
    if path.is_absolute() or settings.model_root is None:
        return path
    return settings.model_root / path
