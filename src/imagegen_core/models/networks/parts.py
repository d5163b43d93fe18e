"""Split a checkpoint file into components by the prefixes of its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from imagegen_core.errors import ModelLoadError
from imagegen_core.family import Family
from imagegen_core.models.networks.harmless import is_harmless
from imagegen_core.models.networks.original import diffusers_layers
from imagegen_core.models.networks.scaling import scaled
from imagegen_core.models.networks.source import Layers, Source
from imagegen_core.models.networks.text_encoder import text_layers
from imagegen_core.models.networks.unet_names import unet_layers
from imagegen_core.models.networks.vae import vae_layers
from imagegen_core.models.tensors import Header, quoted

Described = TypeVar("Described")

VAE_PREFIXES = ("first_stage_model.", "vae.")
"""The beginnings of an autoencoder's names in whole checkpoint files of any family."""

_NAMES = {"unet": unet_layers, "vae": vae_layers, "text_encoder": text_layers, "text_encoder_2": text_layers}
# Prefixes that data-parallel training and torch.compile add to every name.
_WRAPPERS = ("module.", "_orig_mod.")


def unwrapped(tensors: Mapping[str, Described]) -> dict[str, Described]:
    """Remove the prefix of a training wrapper from all names."""
    wrapper = next((prefix for prefix in _WRAPPERS if all(name.startswith(prefix) for name in tensors)), None)
    if not tensors or wrapper is None:
        return dict(tensors)
    return unwrapped({name.removeprefix(wrapper): tensor for name, tensor in tensors.items()})


def checkpoint_parts(header: Header, family: Family) -> dict[str, dict[str, Source]]:
    """Return the layers of each component in a checkpoint file, by the names in its module.

    A file without any of the family's prefixes is the denoising network alone.

    Args:
        header: The file's header.
        family: The file's family.

    Raises:
        ModelLoadError: The file holds a tensor that belongs to no component and is not known to be harmless.
    """
    parts: dict[str, dict[str, Source]] = {}
    strangers = []
    layers = unwrapped(sources(header))
    alone = None if any(name.startswith(tuple(family.prefixes)) for name in layers) else family.denoiser
    for name, source in layers.items():
        prefix = next((prefix for prefix in family.prefixes if name.startswith(prefix)), "")
        component = family.prefixes.get(prefix, alone)
        if is_harmless(name):
            continue
        if component is None:
            strangers.append(source.name)
        else:
            parts.setdefault(component, {})[name.removeprefix(prefix)] = source
    refuse_unused(header, strangers)
    named = {component: component_layers(component, part) for component, part in parts.items()}
    if family.original_names and (denoiser := named.get(family.denoiser)):
        try:
            named[family.denoiser] = diffusers_layers(denoiser, family.original_names(denoiser))
        except ValueError as error:
            raise ModelLoadError(
                f"{header.path} is no {family.title} checkpoint ({error}): take a sound file"
            ) from error
    return named


def vae_layers_of(header: Header) -> dict[str, Source] | None:
    """Return the layers of the autoencoder in its own file or in a whole checkpoint; None without an autoencoder."""
    layers = unwrapped(sources(header))
    for prefix in (*VAE_PREFIXES, ""):
        if f"{prefix}decoder.conv_in.weight" in layers:
            part = {name.removeprefix(prefix): source for name, source in layers.items() if name.startswith(prefix)}
            return component_layers("vae", {name: part[name] for name in part if not is_harmless(f"{prefix}{name}")})
    return None


def component_layers(component: str, layers: Layers) -> dict[str, Source]:
    """Rename a component's layers to the names in its module, with their scales; unknown tensors keep their names."""
    layers = scaled(layers)
    return _NAMES[component](layers) if component in _NAMES else dict(layers)


def refuse_unused(header: Header, names: Iterable[str]) -> None:
    """Refuse a file with tensors of no network.

    Raises:
        ModelLoadError: There are such tensors; it names the first.
    """
    unused = sorted(names)
    if unused:
        others = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
        raise ModelLoadError(
            f"{header.path} holds the tensor {quoted(unused[0])}{others}, which the networks drawn with here do not "
            "have: it may change the picture, so the file is refused; take a version of it without such additions"
        )


def sources(header: Header) -> dict[str, Source]:
    """Return the tensors of a file, each as its own source."""
    return {name: Source(name, tensor.dtype, tensor.shape) for name, tensor in header.tensors.items()}
