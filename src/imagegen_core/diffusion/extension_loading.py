"""Load the denoising extensions of a model: the package's own, and those of plugins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from imagegen_core.diffusion.extension import Extension, LoadedModel
from imagegen_core.diffusion.painting import MaskedBlending, PictureChannels, PictureGuidance, extra_of
from imagegen_core.extension import ExtensionDef
from imagegen_core.models.networks.channels import Extra
from imagegen_core.plugins.registry import Registry


def load_extensions(model: LoadedModel, guidance: type[Extension], registry: Registry) -> Sequence[Extension]:
    """Make the extensions of a model, in their order.

    Args:
        model: The model.
        guidance: The family's extension for guidance by a negative prompt.
        registry: The plugins.

    Raises:
        ImagegenError: An extension cannot be used with this model.
        PluginError: An extension does not import.
    """
    guides = PictureGuidance if extra_of(model) is Extra.PICTURE else guidance
    own = [guides(model), PictureChannels(model), MaskedBlending(model)]
    extensions = [*own, *(offer.load(model) for offer in _offered(model.family.name, registry))]
    return sorted(extensions, key=lambda extension: extension.order)


def extension_versions(family: str, registry: Registry) -> dict[str, str]:
    """Return the versions of the distributions with extensions for a family: they may change any picture."""
    offered = {f"extension {offer.name}" for offer in _offered(family, registry)}
    plugins = (plugin for plugin in registry.plugins if offered & {*plugin.offers})
    return {plugin.distribution: plugin.version for plugin in plugins}


def _offered(family: str, registry: Registry) -> Iterator[ExtensionDef]:
    """Yield the plugins' extensions for a family."""
    return (offer for offer in registry.extensions.values() if family in (offer.architectures or (family,)))
