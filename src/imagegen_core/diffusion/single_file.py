"""Load single-file checkpoints, offline: weights and shapes from the file, the rest from a folder of configs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from imagegen_core.diffusion.components import component_class, load_component, reading
from imagegen_core.diffusion.networks import PLAIN_FORM, Blueprint, Weights, WeightsForm, build_network
from imagegen_core.diffusion.prediction import PredictionOfWeights, normalize_latents, scheduler_of_file
from imagegen_core.diffusion.tokenizers import find_tokenizer
from imagegen_core.diffusion.weights_file import LazyTensors
from imagegen_core.errors import ModelLoadError
from imagegen_core.family import Family
from imagegen_core.models.folders import component_kinds, read_json
from imagegen_core.models.folders import weights as weights_files
from imagegen_core.models.networks.channels import LATENT_CHANNELS, check_channels
from imagegen_core.models.networks.parts import checkpoint_parts, vae_layers_of
from imagegen_core.models.networks.source import Layers, Source
from imagegen_core.models.networks.text_encoder import text_config, without_unused_layer
from imagegen_core.models.networks.unet_config import unet_config
from imagegen_core.models.networks.vae import vae_config
from imagegen_core.models.tensors import Header
from imagegen_core.settings import PredictionName

_NETWORKS = {"unet": unet_config, "vae": vae_config, "text_encoder": text_config, "text_encoder_2": text_config}
_PAD_TOKENS = {"tokenizer": "<|endoftext|>", "tokenizer_2": "!"}
_ADVICE = (
    "it is of another architecture, or incomplete; set BASE_MODEL to a diffusers-format folder with its own configs"
)

State = Mapping[str, object]
Parts = dict[str, dict[str, Source]]


def load_single_file(
    path: Path,
    dtype: torch.dtype,
    configs: Path,
    base: Path | None,
    vae: Any | None = None,
    prediction: PredictionName | None = None,
    *,
    family: Family,
    prediction_of_weights: PredictionOfWeights = lambda _: None,
    form: WeightsForm = PLAIN_FORM,
) -> dict[str, Any]:
    """Load the components of a pipeline from a ``.safetensors`` or ``.ckpt`` file.

    Args:
        path: The file, a whole checkpoint or only a UNet.
        dtype: The dtype for the weights.
        configs: A diffusers-format folder of configs, without weights, for the file's family.
        base: A diffusers-format folder that supplies missing components; its configs replace `configs`.
        vae: An autoencoder to use instead of the file's own; the file's own is then ignored.
        prediction: The network's prediction type; None leaves it to the file.
        family: The file's family.
        prediction_of_weights: Tells the prediction type by the weights, if nothing states it.
        form: The form of the weights.

    Raises:
        ModelLoadError: Neither the file nor `base` has a component, the file holds unknown tensors, or the family's
            classes do not have its architecture.
    """
    folder = base or configs
    kinds = component_kinds(folder)
    if absent := sorted({"unet", "scheduler"} - kinds.keys()):
        raise ModelLoadError(
            f"{folder / 'model_index.json'} names no {absent[0]}: set BASE_MODEL to a whole model's folder"
        )
    wanted = [name for name in _NETWORKS if name in kinds and (name != "vae" or vae is None)]
    with Weights([path]) as weights:
        header = weights.files[0].header
        parts = _parts(header, family, folder, kinds)
        blueprints = _blueprints(path, {name: parts[name] for name in wanted if name in parts}, folder, kinds)
        components: dict[str, Any] = {} if vae is None else {"vae": vae}
        for name in wanted:
            if name in blueprints:
                components[name] = build_network(blueprints[name], parts[name], weights, dtype, form)
            else:
                components[name] = _from_base(path, name, base, kinds[name], dtype, form)
        tensors = LazyTensors(weights.files[0])
        with reading(folder / "scheduler"):
            components["scheduler"] = scheduler_of_file(path, tensors, configs, base, prediction, prediction_of_weights)
        normalize_latents(path, components["vae"], tensors)
    for name in _PAD_TOKENS.keys() & kinds.keys():
        with reading(folder / name):
            components[name] = find_tokenizer(base, name, _pad_token(configs, name))
    return components


def load_vae_file(path: Path, dtype: torch.dtype, folder: Path, form: WeightsForm = PLAIN_FORM) -> Any:
    """Load an autoencoder from its own file, in LDM's or diffusers' naming, or from a whole checkpoint.

    Args:
        path: The file.
        dtype: The dtype for the weights.
        folder: A folder with a ``config.json``; it supplies facts missing from the shapes.
        form: The form of the weights.

    Raises:
        ModelLoadError: The file holds no autoencoder of this family.
    """
    from diffusers import AutoencoderKL

    with Weights([path]) as weights:
        layers = vae_layers_of(weights.files[0].header)
        if layers is None:
            raise ModelLoadError(f"{path} holds no VAE: correct VAE_PATH")
        config = _config(path, "vae", layers, folder)
        blueprint = Blueprint("vae", AutoencoderKL, config, folder / "config.json", _ADVICE)
        return build_network(blueprint, layers, weights, dtype, form)


def _parts(header: Header, family: Family, folder: Path, kinds: Mapping[str, object]) -> Parts:
    """Return the file's components, each with its layers that take part in drawing."""
    parts = checkpoint_parts(header, family)
    if strangers := sorted(parts.keys() - kinds.keys()):
        raise ModelLoadError(
            f"{header.path} holds a {strangers[0]}, which {folder / 'model_index.json'} does not name: set BASE_MODEL "
            "to a folder of the file's own family"
        )
    if "text_encoder" in parts:
        config = read_json(folder, "text_encoder/config.json")
        parts["text_encoder"] = without_unused_layer(parts["text_encoder"], config)
    return parts


def _blueprints(path: Path, parts: Parts, folder: Path, kinds: Mapping[str, tuple[str, str]]) -> dict[str, Blueprint]:
    configs = {name: _config(path, name, layers, folder / name) for name, layers in parts.items()}
    if "unet" not in configs:
        raise ModelLoadError(f"{path} holds no UNet: name a checkpoint to draw with")
    unet, second = configs["unet"], configs.get("text_encoder_2")
    check_channels(path, unet["in_channels"], configs.get("vae", {}).get("latent_channels", LATENT_CHANNELS))
    if second and unet.get("addition_embed_type") == "text_time":
        unet["addition_time_embed_dim"] = (
            unet["projection_class_embeddings_input_dim"] - second["projection_dim"]
        ) // _time_ids(folder)
    return {
        name: Blueprint(
            name, component_class(folder, name, kinds[name]), config, folder / name / "config.json", _ADVICE
        )
        for name, config in configs.items()
    }


def _time_ids(folder: Path) -> int:
    """Return how many numbers the UNet of a folder's configs takes beside the pooled prompt."""
    unet, encoder = read_json(folder, "unet/config.json"), read_json(folder, "text_encoder_2/config.json")
    width = unet["projection_class_embeddings_input_dim"] - encoder["projection_dim"]
    return int(width // unet["addition_time_embed_dim"])


def _config(path: Path, name: str, layers: Layers, folder: Path) -> dict[str, Any]:
    family = read_json(folder, "config.json")
    place = f"{path} does not match {folder / 'config.json'}"
    try:
        return _NETWORKS[name](layers, family)
    except KeyError as error:
        raise ModelLoadError(f"{place}: its {name} has no tensor {error}; {_ADVICE}") from error
    except (IndexError, ValueError) as error:
        raise ModelLoadError(f"{place}: its {name} has tensors of other dimensions; {_ADVICE}") from error


def _from_base(
    path: Path,
    name: str,
    base: Path | None,
    kind: tuple[str, str],
    dtype: torch.dtype,
    form: WeightsForm,
) -> Any:
    if base is not None and weights_files(base / name):
        return load_component(base, name, kind, dtype, form)
    raise ModelLoadError(
        f"{path} holds no {name}: set BASE_MODEL to a diffusers-format folder of its family, which supplies it"
        + (", or VAE_PATH to a VAE" if name == "vae" else "")
    )


def _pad_token(configs: Path, name: str) -> str:
    """Return the padding token of a family's tokenizer, from its config or the default."""
    config = configs / name / "tokenizer_config.json"
    own = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    return str(own.get("pad_token", _PAD_TOKENS[name]))
