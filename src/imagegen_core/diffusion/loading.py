"""Load a checkpoint, offline, with errors that give advice."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from imagegen_core.diffusion.components import load_component, load_network
from imagegen_core.diffusion.libraries import quiet
from imagegen_core.diffusion.networks import PLAIN_FORM, WeightsForm
from imagegen_core.diffusion.prediction import take_normalization, with_prediction
from imagegen_core.diffusion.single_file import load_vae_file
from imagegen_core.diffusion.tiny_vae import holds_tiny_vae, load_tiny_vae
from imagegen_core.errors import ModelLoadError, first_line
from imagegen_core.models.folders import component_kinds, read_json
from imagegen_core.models.inspect import needed_parameters
from imagegen_core.resources.memory import system_memory
from imagegen_core.settings import PredictionName


def load_pipeline(
    class_name: str,
    path: Path,
    dtype: torch.dtype,
    *,
    configs: Path | None,
    base: Path | None,
    load_file: Callable[[Path, Any | None], dict[str, Any]],
    vae: Path | None = None,
    prediction: PredictionName | None = None,
    optional: Sequence[str] = (),
    form: WeightsForm = PLAIN_FORM,
    **options: Any,
) -> Any:
    """Load a diffusers pipeline from a folder or a single file, without the network.

    Args:
        class_name: The pipeline's class in diffusers, such as ``MyPipeline``.
        path: A diffusers-format folder, or a ``.safetensors`` or ``.ckpt`` file.
        dtype: The dtype for the weights.
        configs: A diffusers-format folder of the family's configs, for single files; None if the family has none.
        base: A folder that supplies the missing components of a single file; see `Settings.base_model`.
        load_file: Loads the components of a single file, given its path and the loaded `vae`.
        vae: An autoencoder's file or folder to use instead of the checkpoint's own; see `Settings.vae_path`.
        prediction: The network's prediction type; None leaves it to the checkpoint.
        optional: The components that the checkpoint may lack.
        form: The form of a folder's weights; `load_file` sees to a file's.
        options: Further arguments of the pipeline, such as components to leave out.

    Raises:
        ModelLoadError: A component is missing, damaged or of an unknown architecture, or the memory is too small.
    """
    with quiet(), memory_for(path):
        import diffusers

        pipeline_class = getattr(diffusers, class_name)
        components: dict[str, Any] = {}
        if vae is not None:
            places = [folder / "vae" for folder in (path, base, configs) if folder is not None]
            of_vae = next(place for place in places if (place / "config.json").is_file())
            components["vae"] = load_vae(vae, dtype, of_vae, form)
            take_normalization(components["vae"], read_json(of_vae, "config.json"))
        if path.is_dir():
            index = read_json(path, "model_index.json")
            components |= _load_folder(path, dtype, form, leave_out={**options, **components})
            components = {**dict.fromkeys(optional), **components}
            if prediction is not None and configs is not None:
                components["scheduler"] = with_prediction(components["scheduler"], prediction, configs)
        else:
            components |= load_file(path, components.get("vae"))
            described = base or configs
            index = read_json(described, "model_index.json") if described else {}
        parameters = inspect.signature(pipeline_class.__init__).parameters
        given = {name: value for name, value in index.items() if name in parameters and not isinstance(value, list)}
        arguments = {**given, **options, **components}
        _check_arguments(path, class_name, parameters, arguments)
        return pipeline_class(**arguments)


def load_vae(path: Path, dtype: torch.dtype, folder: Path, form: WeightsForm = PLAIN_FORM) -> Any:
    """Load a separate autoencoder, also a tiny one, from a file in any naming or from a diffusers-format folder.

    Args:
        path: The file or folder.
        dtype: The dtype for the weights.
        folder: A folder with a ``config.json``; it supplies facts missing from a file's shapes.
        form: The form of the weights.

    Raises:
        ModelLoadError: The path holds no autoencoder of this family.
    """
    from diffusers import AutoencoderKL

    if not path.exists():
        raise ModelLoadError(f"There is no VAE {path}: correct VAE_PATH")
    if holds_tiny_vae(path):
        return load_tiny_vae(path, dtype, "VAE_PATH", read_json(folder, "config.json"))
    if path.is_dir():
        return load_network(path, "vae", AutoencoderKL, dtype, form)
    return load_vae_file(path, dtype, folder, form)


def _load_folder(path: Path, dtype: torch.dtype, form: WeightsForm, leave_out: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {name: kind for name, kind in component_kinds(path).items() if name not in leave_out}
    return {name: load_component(path, name, kind, dtype, form) for name, kind in kinds.items()}


def _check_arguments(
    path: Path, class_name: str, parameters: Mapping[str, inspect.Parameter], arguments: Mapping[str, Any]
) -> None:
    """Check that a pipeline gets all its required arguments, and no unknown ones."""
    needed = {name for name, parameter in parameters.items() if parameter.default is parameter.empty} - {"self"}
    if missing := sorted(needed - arguments.keys()):
        raise ModelLoadError(
            f"The checkpoint {path} is incomplete: its model_index.json names no {missing[0]}, which a {class_name} "
            "needs"
        )
    if strangers := sorted(arguments.keys() - parameters.keys()):
        raise ModelLoadError(
            f"{path / 'model_index.json'} names a {strangers[0]}, which a {class_name} does not have: it is of another "
            "pipeline"
        )


def check_fits_in_memory(path: Path, dtype: torch.dtype, stored: int | None = None) -> None:
    """Refuse a checkpoint that is larger than the main memory: the system would kill the process.

    Weights pass through the main memory on every device.

    Args:
        path: The checkpoint.
        dtype: The dtype for the weights.
        stored: The bytes of the weights as they are stored; None means in `dtype`.

    Raises:
        ModelLoadError: The weights take more than the total main memory.
    """
    needed, total = stored or needed_parameters(path) * dtype.itemsize, system_memory().total
    if needed > total:
        raise ModelLoadError(
            f"The memory does not take the checkpoint {path}: its weights take {needed / 1e9:.1f} GB, and this process "
            f"may use {total / 1e9:.1f} GB: set CUDA_DTYPE=fp16 or bf16, or give the container or machine more memory"
        )


@contextmanager
def memory_for(path: Path) -> Iterator[None]:
    """Turn torch's memory errors while a checkpoint loads into a sentence.

    Raises:
        ModelLoadError: The memory was too small for the checkpoint.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        is_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not is_of_memory and "not enough memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        raise ModelLoadError(
            f"The memory does not take the checkpoint {path} ({first_line(error)}): set CUDA_DTYPE=fp16 or bf16, or "
            "use a device with more memory"
        ) from error
