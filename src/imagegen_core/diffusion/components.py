"""Load the components of a diffusers-format folder, each from its own subfolder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from imagegen_core.diffusion.networks import PLAIN_FORM, Blueprint, Weights, WeightsForm, build_network
from imagegen_core.errors import ModelLoadError, first_line
from imagegen_core.models.folders import LIBRARIES, read_json, weights
from imagegen_core.models.networks.parts import component_layers, sources
from imagegen_core.models.networks.scaling import scaled
from imagegen_core.models.tensors import quoted

# The classes whose weights files use several namings: each with the component whose names `component_layers` knows.
_NAMED_LIKE = {
    "UNet2DConditionModel": "unet",
    "AutoencoderKL": "vae",
    "CLIPTextModel": "text_encoder",
    "CLIPTextModelWithProjection": "text_encoder_2",
}
_ADVICE = "take the configs and the weights from one and the same model"


def load_component(
    folder: Path,
    name: str,
    kind: tuple[str, str],
    dtype: torch.dtype,
    form: WeightsForm = PLAIN_FORM,
) -> Any:
    """Load a component of a pipeline from its subfolder of a checkpoint.

    Args:
        folder: The checkpoint's folder.
        name: The component's name, such as ``unet`` or ``tokenizer``.
        kind: The component's library and class, as ``model_index.json`` names them.
        dtype: The dtype for a network's weights.
        form: The form of its weights.

    Raises:
        ModelLoadError: The component is missing, damaged, or of a class that does not suit it.
    """
    if not (folder / name).is_dir():
        raise ModelLoadError(f"The checkpoint {folder} is incomplete: its folder {name} is missing; copy it again")
    component = component_class(folder, name, kind)
    if issubclass(component, torch.nn.Module):
        return load_network(folder / name, name, component, dtype, form)
    with reading(folder / name):
        return component.from_pretrained(folder / name, local_files_only=True)


def load_network(
    folder: Path,
    name: str,
    network: type,
    dtype: torch.dtype,
    form: WeightsForm = PLAIN_FORM,
) -> Any:
    """Load a network from the config and the weights in its folder.

    Args:
        folder: The network's own folder.
        name: The component's name, such as ``vae``.
        network: The network's class.
        dtype: The dtype for the weights.
        form: The form of the weights.

    Raises:
        ModelLoadError: The config or the weights are missing, damaged or quantized, or they do not match.
    """
    config = read_json(folder, "config.json")
    if quantization := config.get("quantization_config"):
        method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        raise ModelLoadError(
            f"{folder} is quantized by {quoted(method)}, which is not read here: take the model in fp16 or bf16, or a "
            "GGUF file of it"
        )
    if not (files := weights(folder)):
        others = ", ".join(sorted(file.name for file in folder.iterdir() if file.name != "config.json"))
        raise ModelLoadError(
            f"The checkpoint {folder.parent} is incomplete: its folder {folder.name} has no weights; "
            + (f"it has {others}, and .safetensors or .bin is read" if others else "copy it again")
        )
    with Weights(files) as opened:
        stored = {key: source for file in opened.files for key, source in sources(file.header).items()}
        like = _NAMED_LIKE.get(network.__name__)
        layers = scaled(stored) if like is None else component_layers(like, stored)
        blueprint = Blueprint(name, network, config, folder / "config.json", _ADVICE)
        return build_network(blueprint, layers, opened, dtype, form)


def component_class(folder: Path, name: str, kind: tuple[str, str]) -> Any:
    """Return the class of a component from a folder's ``model_index.json``.

    Raises:
        ModelLoadError: The installed library has no such class, or the class does not suit the component.
    """
    from diffusers import ModelMixin, SchedulerMixin
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    library, class_name = kind
    named = f"{folder / 'model_index.json'} names {library}'s {class_name} for its {name}"
    if library not in LIBRARIES:
        raise ModelLoadError(f"{named}, and classes are taken from {' and '.join(LIBRARIES)} alone")
    component = getattr(import_module(library), class_name, None)
    fitting: tuple[type, ...] = (ModelMixin, PreTrainedModel)
    if name.startswith("tokenizer"):
        fitting = (PreTrainedTokenizerBase,)
    elif name == "scheduler":
        fitting = (SchedulerMixin,)
    if component is None:
        raise ModelLoadError(
            f"{named}, which the installed version {import_module(library).__version__} does not have: upgrade it, or "
            "take another version of the model"
        )
    if not isinstance(component, type) or not issubclass(component, fitting):
        raise ModelLoadError(f"{named}, which it cannot be: take the model_index.json that belongs to the model")
    return component


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Turn a library's errors about a folder of small files into a sentence.

    Raises:
        ModelLoadError: The library raised an error.
    """
    try:
        yield
    except ModelLoadError:
        raise
    except ImportError as error:
        raise ModelLoadError(f"Cannot load {folder}: {first_line(error)}") from error
    except PermissionError as error:
        raise ModelLoadError(f"Cannot read {folder}: {error.strerror}; correct its permissions") from error
    except Exception as error:  # the libraries raise any error, and Rust's tokenizers raise plain exceptions
        raise ModelLoadError(f"{folder} is damaged or incomplete ({first_line(error)}): copy it again") from error
