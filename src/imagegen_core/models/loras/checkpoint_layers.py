"""The layers of a checkpoint's networks: their names, in each dialect that LoRAs use, and their shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

from imagegen_core.models.folders import weights
from imagegen_core.models.headers import read_header
from imagegen_core.models.ldm_names import to_diffusers, to_ldm
from imagegen_core.models.loras.tensor_names import NETWORKS, TEXT_ENCODER, TEXT_ENCODER_2, UNET
from imagegen_core.models.tensors import Tensor

Shape = tuple[int, ...]

_WIDTH = re.compile(r"\.attn2\.to_k\.weight$")
_TEXT_PREFIX = "text_model."
# How single files begin the names of each network; the second encoder's are open_clip's.
_SINGLE_FILE = {
    UNET: ("model.diffusion_model.", ""),
    TEXT_ENCODER: ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer."),
}
_OPEN_CLIP = ("conditioner.embedders.1.model.", "cond_stage_model.model.")
_OPEN_CLIP_PARTS = {
    "ln_final": "final_layer_norm",
    "token_embedding": "embeddings.token_embedding",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_OPEN_CLIP_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)")
_OPEN_CLIP_JOINED = re.compile(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)")
_OLD_PROCESSORS = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


class CheckpointLayers:
    """The parameters of a checkpoint's networks, by diffusers' and transformers' names.

    Attributes:
        networks: For each network the shape of each parameter, by its name; text encoders without ``text_model.``.
    """

    def __init__(self, networks: Mapping[str, Mapping[str, Shape]]) -> None:
        """Take the parameters.

        Args:
            networks: For each network its parameters' shapes; text encoders' names may begin with ``text_model.``.
        """
        self.networks = {
            network: {_bare(network, name): shape for name, shape in parameters.items()}
            for network, parameters in networks.items()
            if parameters
        }

    @classmethod
    def of_files(cls, checkpoint: Path, base: Path | None = None) -> CheckpointLayers:
        """Read the headers of a checkpoint's files.

        Args:
            checkpoint: A single file, or a diffusers-format folder.
            base: A diffusers-format folder that supplies the networks which a single file lacks.

        Raises:
            ModelLoadError: A file is damaged.
        """
        networks = _of_folder(checkpoint) if checkpoint.is_dir() else _of_file(read_header(checkpoint).tensors)
        supplied = _of_folder(base) if base is not None and not checkpoint.is_dir() else {}
        return cls({network: networks.get(network) or supplied.get(network, {}) for network in NETWORKS})

    @cached_property
    def cross_attention_dim(self) -> int | None:
        """The width at which the UNet takes a prompt's embedding; None where it takes none."""
        unet = self.networks.get(UNET, {})
        return next((shape[1] for name, shape in unet.items() if _WIDTH.search(name)), None)

    def shape(self, network: str, module: str, parameter: str = "weight") -> Shape | None:
        """The shape of a module's parameter; None if it has none."""
        return self.networks.get(network, {}).get(f"{module}.{parameter}")

    def find(self, network: str, layer: str) -> str | None:
        """The module that a layer's name in any dialect means; None if the network has no such module."""
        return self._aliases.get(network, {}).get(layer)

    @cached_property
    def _aliases(self) -> dict[str, dict[str, str]]:
        return {network: _aliases(network, parameters) for network, parameters in self.networks.items()}


def _aliases(network: str, parameters: Iterable[str]) -> dict[str, str]:
    """Each module by all its names."""
    found: dict[str, str] = {}
    modules = dict.fromkeys(name.rpartition(".")[0] for name in parameters)
    ldm = to_ldm(modules) if network == UNET else {}
    for module in modules:
        names = [module]
        if network == UNET:
            names += [ldm[module]] if module in ldm else []
            names += [module.removesuffix(".0")] if module.endswith(".to_out.0") else []
        else:
            parent, _, last = module.rpartition(".")
            names += [f"{parent}.{_OLD_PROCESSORS[last]}"] if last in _OLD_PROCESSORS else []
            names += [f"{_TEXT_PREFIX}{name}" for name in names]
        for name in names:
            found.setdefault(name, module)
            found.setdefault(name.replace(".", "_"), module)
    return found


def _bare(network: str, name: str) -> str:
    """Drop the prefix under which transformers nests some text encoders' text models, and before 5 all."""
    return name if network == UNET else name.removeprefix(_TEXT_PREFIX)


def _of_folder(folder: Path) -> dict[str, dict[str, Shape]]:
    return {
        network: {
            name: tensor.shape
            for file in weights(folder / network)
            for name, tensor in read_header(file).tensors.items()
        }
        for network in NETWORKS
    }


def _of_file(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Shape]]:
    networks: dict[str, dict[str, Shape]] = {TEXT_ENCODER: {}, TEXT_ENCODER_2: {}}
    unet = next(found for prefix in _SINGLE_FILE[UNET] if (found := _below(prefix, tensors)) or not prefix)
    renamed = to_diffusers(unet)
    networks[UNET] = {renamed.get(name, name): shape for name, shape in unet.items()}
    for prefix in _SINGLE_FILE[TEXT_ENCODER]:
        networks[TEXT_ENCODER] |= _below(prefix, tensors)
    for prefix, network in zip(_OPEN_CLIP, (TEXT_ENCODER_2, TEXT_ENCODER), strict=True):
        for name, shape in _below(prefix, tensors).items():
            networks[network] |= _from_open_clip(name, shape)
    return networks


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name.removeprefix(prefix): tensor.shape for name, tensor in tensors.items() if name.startswith(prefix)}


def _from_open_clip(name: str, shape: Shape) -> dict[str, Shape]:
    """One of open_clip's parameters under transformers' names; it holds query, key and value in one matrix."""
    if joined := _OPEN_CLIP_JOINED.fullmatch(name):
        layer = f"encoder.layers.{joined[1]}.self_attn"
        return {f"{layer}.{part}_proj.{joined[2]}": (shape[0] // 3, *shape[1:]) for part in "qkv"}
    if name == "text_projection":
        return {"text_projection.weight": shape[::-1]}
    if name == "positional_embedding":
        return {"embeddings.position_embedding.weight": shape}
    if block := _OPEN_CLIP_BLOCK.fullmatch(name):
        return {f"encoder.layers.{block[1]}.{_OPEN_CLIP_PARTS.get(block[2], block[2])}.{block[3]}": shape}
    module, _, parameter = name.rpartition(".")
    return {f"{_OPEN_CLIP_PARTS.get(module, module)}.{parameter}": shape}
