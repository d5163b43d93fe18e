"""The layers of a checkpoint's networks: their shapes, and their names in each dialect of LoRA files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from imagegen_core.family import Family
from imagegen_core.models.folders import weights
from imagegen_core.models.headers import read_header
from imagegen_core.models.ldm_names import to_ldm
from imagegen_core.models.loras.tensor_names import DENOISERS, NETWORKS, UNET
from imagegen_core.models.networks.parts import checkpoint_parts
from imagegen_core.models.tensors import Header
from imagegen_core.original_names import LayerPart, OriginalNames

Shape = tuple[int, ...]

LOOKUPS = ("embeddings.token_embedding", "embeddings.position_embedding")
"""The tables of a text encoder: layers that look vectors up instead of multiplying."""

_WIDTH = re.compile(r"\.attn2\.to_k\.weight$")
_TEXT_PREFIX = "text_model."
_OLD_PROCESSORS = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


class CheckpointLayers:
    """The parameters of a checkpoint's networks, by diffusers' and transformers' names.

    Attributes:
        networks: For each network the shape of each parameter, by its name; text encoders without ``text_model.``.
    """

    def __init__(self, networks: Mapping[str, Mapping[str, Shape]], family: Family | None = None) -> None:
        """Store the parameters.

        Args:
            networks: For each network its parameters' shapes; text encoders' names may begin with ``text_model.``.
            family: The checkpoint's family, for the names of its original code; None knows no such names.
        """
        self._original_names = family.original_names if family else None
        self.networks = {
            network: {_bare(network, name): shape for name, shape in parameters.items()}
            for network, parameters in networks.items()
            if parameters
        }

    @classmethod
    def of_files(cls, checkpoint: Path, family: Family, base: Path | None = None) -> CheckpointLayers:
        """Read the headers of a checkpoint's files.

        Args:
            checkpoint: A single file, or a diffusers-format folder.
            family: The checkpoint's family.
            base: A diffusers-format folder for the networks that a single file lacks.

        Raises:
            ModelLoadError: A file is damaged, or holds a tensor that no network takes.
        """
        networks = _of_folder(checkpoint) if checkpoint.is_dir() else _of_file(read_header(checkpoint), family)
        supplied = _of_folder(base) if base is not None and not checkpoint.is_dir() else {}
        return cls({network: networks.get(network) or supplied.get(network, {}) for network in NETWORKS}, family)

    @cached_property
    def cross_attention_dim(self) -> int | None:
        """The width of the UNet's prompt embeddings; None without cross-attention."""
        unet = self.networks.get(UNET, {})
        return next((shape[1] for name, shape in unet.items() if _WIDTH.search(name)), None)

    def shape(self, network: str, module: str, parameter: str = "weight") -> Shape | None:
        """Return the shape of a module's parameter; None if it has none."""
        return self.networks.get(network, {}).get(f"{module}.{parameter}")

    def find(self, network: str, layer: str) -> Sequence[LayerPart]:
        """Return the modules for a layer's name in any dialect; empty if the network has no such module.

        Only a layer of the family's original code may be several modules.
        """
        return self._aliases.get(network, {}).get(layer, ())

    @cached_property
    def _aliases(self) -> dict[str, dict[str, Sequence[LayerPart]]]:
        aliases = {network: _aliases(network, parameters) for network, parameters in self.networks.items()}
        if self._original_names:
            for network in set(DENOISERS) & self.networks.keys():
                originals = self._original_names(self.networks[network])
                aliases[network] = {**_original_aliases(originals, aliases[network]), **aliases[network]}
        return aliases


def _original_aliases(names: OriginalNames, known: Mapping[str, Sequence[LayerPart]]) -> dict[str, Sequence[LayerPart]]:
    """Map the original code's names to the modules that the network has."""
    there = {name: parts for name, parts in names.items() if all(part.name in known for part in parts)}
    return {**{name.replace(".", "_"): parts for name, parts in there.items()}, **there}


def _aliases(network: str, parameters: Iterable[str]) -> dict[str, Sequence[LayerPart]]:
    """Map every name of each module to the module."""
    aliases: dict[str, Sequence[LayerPart]] = {}
    modules = dict.fromkeys(name.rpartition(".")[0] for name in parameters)
    ldm = to_ldm(modules) if network == UNET else {}
    for module in modules:
        names, parts = [module], (LayerPart(module),)
        if network in DENOISERS:
            names += [ldm[module]] if module in ldm else []
            names += [module.removesuffix(".0")] if module.endswith(".to_out.0") else []
        else:
            parent, _, last = module.rpartition(".")
            names += [f"{parent}.{_OLD_PROCESSORS[last]}"] if last in _OLD_PROCESSORS else []
            names += [f"{_TEXT_PREFIX}{name}" for name in names]
        for name in names:
            aliases.setdefault(name, parts)
            aliases.setdefault(name.replace(".", "_"), parts)
    return aliases


def _bare(network: str, name: str) -> str:
    """Drop ``text_model.``: transformers 5 nests some text encoders in it, older releases all."""
    return name if network in DENOISERS else name.removeprefix(_TEXT_PREFIX)


def _of_folder(folder: Path) -> dict[str, dict[str, Shape]]:
    return {
        network: {
            name: tensor.shape
            for file in weights(folder / network)
            for name, tensor in read_header(file).tensors.items()
        }
        for network in NETWORKS
    }


def _of_file(header: Header, family: Family) -> dict[str, dict[str, Shape]]:
    parts = checkpoint_parts(header, family)
    return {network: {name: source.shape for name, source in layers.items()} for network, layers in parts.items()}
