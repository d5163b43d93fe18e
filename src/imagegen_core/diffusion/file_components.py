"""Load the components of a single-file checkpoint, offline, for families with a transformer.

The weights and shapes come from the file, and the rest from a folder of configs. A diffusers-format folder may supply
the components that the file lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from imagegen_core.diffusion.components import component_class, load_component, reading
from imagegen_core.diffusion.networks import Blueprint, Weights, WeightsForm, build_network
from imagegen_core.diffusion.prediction import scheduler_of_folder
from imagegen_core.diffusion.tokenizers import find_t5_tokenizer, find_tokenizer
from imagegen_core.errors import ModelLoadError
from imagegen_core.family import Family
from imagegen_core.memory_plan import Storage
from imagegen_core.models.folders import component_kinds, read_json
from imagegen_core.models.folders import weights as weights_files
from imagegen_core.models.networks.parts import checkpoint_parts
from imagegen_core.models.networks.source import Layers
from imagegen_core.models.networks.t5 import t5_config
from imagegen_core.models.networks.text_encoder import text_config
from imagegen_core.models.networks.vae import vae_config

MakeConfig = Callable[[Layers, Mapping[str, Any]], dict[str, Any]]
"""Derives a network's config from its layers and a config of the family."""

_ADVICE = (
    "it is of another architecture, or incomplete; set BASE_MODEL to a diffusers-format folder with its own configs"
)
_CONFIGS: Mapping[str, MakeConfig] = {
    "AutoencoderKL": vae_config,
    "CLIPTextModel": text_config,
    "CLIPTextModelWithProjection": text_config,
    "T5EncoderModel": t5_config,
}
_PAD_TOKENS = {"tokenizer": "<|endoftext|>", "tokenizer_2": "!"}  # of CLIP's first and second encoder


def load_components(
    path: Path,
    dtype: torch.dtype,
    *,
    family: Family,
    denoiser_config: MakeConfig,
    configs: Path,
    base: Path | None,
    vae: Any | None = None,
    optional: Sequence[str] = (),
    classes: Mapping[str, tuple[str, str]] | None = None,
    storage: Storage | None = None,
) -> dict[str, Any]:
    """Load the components of a pipeline from a ``.safetensors`` or ``.ckpt`` file.

    The scheduler is the one of `base` or `configs`.

    Args:
        path: The file, a whole checkpoint or only the denoising network.
        dtype: The dtype for the weights.
        family: The file's family.
        denoiser_config: Derives the denoising network's config.
        configs: A diffusers-format folder of configs, without weights, for the family.
        base: A diffusers-format folder that supplies missing components; its configs replace `configs`.
        vae: An autoencoder to use instead of the file's own; the file's own is then ignored.
        optional: The components that may be missing; the result then has None.
        classes: The library and class of networks in the file, where these differ from those in the folder's index.
        storage: The storage of large matrices, such as ``self.memory_plan.storage``.

    Raises:
        ModelLoadError: Neither the file nor `base` has a component, the file holds unknown tensors, or the family's
            classes do not have its architecture.
    """
    folder = base or configs
    kinds, form = component_kinds(folder), WeightsForm(storage=storage)
    networks = [name for name in kinds if not name.startswith("tokenizer") and name != "scheduler"]
    components: dict[str, Any] = {} if vae is None else {"vae": vae}
    with Weights([path]) as weights:
        parts = checkpoint_parts(weights.files[0].header, family)
        if strangers := sorted(parts.keys() - kinds.keys()):
            raise ModelLoadError(
                f"{path} holds a {strangers[0]}, which {folder / 'model_index.json'} does not name: set BASE_MODEL to "
                "a folder of the file's own family"
            )
        # All networks are checked before the first weight is read.
        blueprints: dict[str, Blueprint] = {}
        for name in [name for name in networks if name not in components]:
            if name in parts:
                kind = (classes or {}).get(name, kinds[name])
                make_config = denoiser_config if name == family.denoiser else _CONFIGS.get(kind[1])
                blueprints[name] = _blueprint(path, name, kind, parts[name], make_config, folder)
            elif base is None or not weights_files(base / name):
                _refuse_absent(path, name, optional)
                components[name] = None
        for name in [name for name in networks if name not in components]:
            if name in blueprints:
                components[name] = build_network(blueprints[name], parts[name], weights, dtype, form)
            else:
                components[name] = load_component(folder, name, kinds[name], dtype, form)
    for name in kinds:
        if name.startswith("tokenizer"):
            encoder = components[name.replace("tokenizer", "text_encoder")]
            components[name] = None if encoder is None else _tokenizer(name, kinds[name][1], base)
    with reading(folder / "scheduler"):
        return {**dict.fromkeys(optional), **components, "scheduler": scheduler_of_folder(folder)}


def _blueprint(
    path: Path, name: str, kind: tuple[str, str], layers: Layers, make_config: MakeConfig | None, folder: Path
) -> Blueprint:
    described_by = folder / name / "config.json"
    place = f"{path} does not match {described_by}"
    if make_config is None:
        raise ModelLoadError(
            f"{folder / 'model_index.json'} names a {kind[1]} for its {name}, and {path} holds another network: set "
            "BASE_MODEL to a folder of the file's own family"
        )
    try:
        config = make_config(layers, read_json(folder, f"{name}/config.json"))
    except KeyError as error:
        raise ModelLoadError(f"{place}: its {name} has no tensor {error}; {_ADVICE}") from error
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise ModelLoadError(f"{place}: its {name} has tensors of other dimensions; {_ADVICE}") from error
    return Blueprint(name, component_class(folder, name, kind), config, described_by, _ADVICE)


def _refuse_absent(path: Path, name: str, optional: Sequence[str]) -> None:
    if name not in optional:
        raise ModelLoadError(
            f"{path} holds no {name}: set BASE_MODEL to a diffusers-format folder of its family, which supplies it"
            + (", or VAE_PATH to a VAE" if name == "vae" else "")
        )


def _tokenizer(name: str, class_name: str, base: Path | None) -> Any:
    if class_name.startswith("CLIP"):
        return find_tokenizer(base, name, _PAD_TOKENS[name])
    return find_t5_tokenizer(base, name)
