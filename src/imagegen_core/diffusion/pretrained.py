"""Load any diffusers pipeline from a folder, offline, by the libraries' own loaders."""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from imagegen_core.diffusion.components import reading
from imagegen_core.diffusion.construction_lock import building
from imagegen_core.diffusion.libraries import quiet
from imagegen_core.diffusion.loading import memory_for
from imagegen_core.diffusion.torchvision import make_torchvision_importable
from imagegen_core.errors import ModelLoadError
from imagegen_core.importing import import_named, unusable
from imagegen_core.models.folders import LIBRARIES, read_json, weights
from imagegen_core.models.tensors import quoted

logger = logging.getLogger(__name__)

_ABSENT = [None, None]
_PICKLE = ".bin"
_ANY_PIPELINE = "diffusers:DiffusionPipeline"


def load_pretrained(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """Load the pipeline of the class that a folder's ``model_index.json`` names.

    The libraries' loaders build the networks, and read their weights. They change functions of the whole process
    meanwhile, so other models wait.

    Args:
        folder: A diffusers-format folder.
        dtype: The dtype for the weights.
        device: The device for the networks.

    Raises:
        ModelLoadError: The folder is damaged or incomplete, its class is unknown, or the memory is too small.
        PluginError: A library of diffusers does not import.
    """
    loaded_class = pipeline_class(folder)
    with quiet(), memory_for(folder):
        networks = {name: _load_network(folder, name, kind, dtype) for name, kind in _networks(folder).items()}
        with building(), reading(folder):
            pipe = loaded_class.from_pretrained(folder, local_files_only=True, dtype=dtype, **networks)
        pipe.set_progress_bar_config(disable=True)
        return pipe.to(device)


def import_diffusers() -> None:
    """Import what every pipeline of diffusers needs.

    Raises:
        Exception: A library is missing or broken; `imagegen_core.importing.unusable` explains it.
    """
    make_torchvision_importable()
    with quiet():
        import_named(_ANY_PIPELINE)


def pipeline_class(folder: Path) -> Any:
    """Return the pipeline's class that a folder's ``model_index.json`` names.

    Raises:
        ModelLoadError: The file is missing or damaged, or the installed diffusers has no such pipeline.
        PluginError: A library of diffusers does not import.
    """
    try:
        import_diffusers()
    except Exception as error:
        raise unusable(f"The pipeline in {folder}", error, _ANY_PIPELINE) from error
    import diffusers

    index = folder / "model_index.json"
    name = read_json(folder, "model_index.json").get("_class_name")
    if not isinstance(name, str):
        raise ModelLoadError(f"{index} asks for a pipeline of its own code, which could do anything: it is not run")
    found = getattr(diffusers, name, None)
    if not isinstance(found, type) or not issubclass(found, diffusers.DiffusionPipeline):
        raise ModelLoadError(
            f"{index} names a {name}, and the installed diffusers {diffusers.__version__} has no such pipeline: "
            "pip install --upgrade diffusers, or take another model"
        )
    return found


def _networks(folder: Path) -> dict[str, type]:
    """Return the class of each network; other components, such as tokenizers, are left to the pipeline's loader.

    Raises:
        ModelLoadError: A component's class is unknown, or its code is not from diffusers or transformers.
    """
    from diffusers import ModelMixin
    from transformers import PreTrainedModel

    classes = {}
    for name, kind in read_json(folder, "model_index.json").items():
        if not name.startswith("_") and isinstance(kind, list) and kind != _ABSENT:
            classes[name] = _component_class(folder, name, kind)
    return {name: found for name, found in classes.items() if issubclass(found, (ModelMixin, PreTrainedModel))}


def _component_class(folder: Path, name: str, kind: list[Any]) -> type:
    import diffusers.pipelines

    index = folder / "model_index.json"
    if len(kind) != 2 or not all(isinstance(part, str) for part in kind):  # noqa: PLR2004 - library and class
        raise ModelLoadError(f"{index} describes its {name} as {kind!r}, expected a library and a class")
    library, class_name = kind
    module = import_module(library) if library in LIBRARIES else getattr(diffusers.pipelines, library, None)
    if module is None:
        raise ModelLoadError(
            f"{index} wants its {name} from the library {library!r}, whose code could do anything: classes are taken "
            f"from {' and '.join(LIBRARIES)} alone"
        )
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        raise ModelLoadError(
            f"{index} names {library}'s {class_name} for its {name}, which the installed version does not have: "
            f"pip install --upgrade {library if library in LIBRARIES else 'diffusers'}, or take another model"
        )
    return found


def _load_network(folder: Path, name: str, network: Any, dtype: torch.dtype) -> Any:
    if not (files := weights(folder / name)):
        raise ModelLoadError(f"The checkpoint {folder} is incomplete: its folder {name} has no weights; copy it again")
    parts = files[0].name.removesuffix(files[0].suffix).split("-00001-of-")[0].split(".")
    options = {"variant": parts[1]} if len(parts) > 1 else {}
    with building(), reading(folder / name):
        loaded, report = network.from_pretrained(
            folder / name,
            local_files_only=True,
            use_safetensors=files[0].suffix != _PICKLE,
            output_loading_info=True,
            dtype=dtype,
            **options,
        )
    if missing := sorted(report["missing_keys"]):
        raise ModelLoadError(
            f"The weights in {folder / name} have no tensor {quoted(missing[0])}, one of {len(missing)} that a "
            f"{network.__name__} needs: copy the checkpoint again"
        )
    if unused := sorted(report["unexpected_keys"]):
        logger.warning("A %s has no use for %d tensors of %s", network.__name__, len(unused), folder / name)
    return loaded.eval()
