"""Loading a checkpoint, offline, with errors that say what to do."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from imagegen_core.diffusion.building import building_by_libraries
from imagegen_core.diffusion.prediction import with_prediction
from imagegen_core.diffusion.single_file import load_single_file, read_vae
from imagegen_core.errors import ModelLoadError
from imagegen_core.settings import PredictionName

_WITH_WEIGHTS = ("unet", "vae", "text_encoder", "text_encoder_2")


def load_pipeline(
    class_name: str,
    path: Path,
    dtype: torch.dtype,
    *,
    configs: Path,
    base: Path | None,
    prediction: PredictionName | None = None,
    **options: Any,
) -> Any:
    """Load a diffusers pipeline from a folder or a single file, without the network.

    Args:
        class_name: The pipeline's class in diffusers, such as ``StableDiffusionXLPipeline``.
        path: A diffusers-format folder, or a ``.safetensors`` or ``.ckpt`` file.
        dtype: What the weights are loaded as.
        configs: A diffusers-format folder of the family's configs, for single files.
        base: A folder that supplies what a single file lacks; see `Settings.base_model`.
        prediction: What the network predicts; None leaves it to the checkpoint.
        options: Further arguments of the pipeline, such as components to leave out.

    Raises:
        ModelLoadError: A component is missing or damaged.
    """
    with quiet(), _explained(path), building_by_libraries():
        import diffusers

        pipeline_class = getattr(diffusers, class_name)
        if path.is_dir():
            _check_components(path, leave_out=options)
            pipe = pipeline_class.from_pretrained(
                path, dtype=dtype, local_files_only=True, variant=_variant(path), **options
            )
            if prediction is not None:
                pipe.scheduler = with_prediction(pipe.scheduler, prediction, configs)
            return pipe
        components = load_single_file(path, dtype, configs, base, prediction)
        accepted = inspect.signature(pipeline_class.__init__).parameters
        given = {name: value for name, value in _index(base or configs).items() if name in accepted}
        return pipeline_class(**{**given, **options, **components})


def load_vae(path: Path, dtype: torch.dtype, folder: Path) -> Any:
    """An autoencoder of its own, from a file in either naming or a diffusers-format folder.

    Args:
        path: The file or folder.
        dtype: What the weights are loaded as.
        folder: A diffusers-format folder whose autoencoder's config is a file's.

    Raises:
        ModelLoadError: There is no autoencoder of that family.
    """
    if not path.exists():
        raise ModelLoadError(f"There is no VAE {path}: correct VAE_PATH")
    with quiet(), _explained(path), building_by_libraries():
        return read_vae(path, dtype, folder / "vae")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the libraries' errors about a checkpoint into a sentence."""
    try:
        yield
    except ModelLoadError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, UnpicklingError) as error:
        raise ModelLoadError(f"Cannot load the checkpoint {path}: {first_line(error)}; copy it anew") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # has no base class of its own to name
            raise
        raise ModelLoadError(
            f"Cannot load the checkpoint {path}: a weights file is damaged or cut short ({error}); copy it anew"
        ) from error


def _index(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "model_index.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def _check_components(path: Path, leave_out: dict[str, Any]) -> None:
    for name, kind in _index(path).items():
        if not isinstance(kind, list) or kind[0] is None or name in leave_out:
            continue
        if not (path / name).is_dir():
            raise ModelLoadError(f"The checkpoint {path} is incomplete: its folder {name} is missing; copy it anew")
        if name in _WITH_WEIGHTS and not {file.suffix for file in (path / name).iterdir()} & {".safetensors", ".bin"}:
            raise ModelLoadError(f"The checkpoint {path} is incomplete: its folder {name} has no weights; copy it anew")


def _variant(path: Path) -> str | None:
    """``fp16`` where the folder holds its weights under that variant's names alone."""
    weights = [file.name for file in (path / "unet").glob("diffusion_pytorch_model*.safetensors")]
    return "fp16" if weights and all(".fp16" in name for name in weights) else None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' progress bars and their note about torchvision, which nothing here needs, to themselves."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    loggers = (diffusers_logging, transformers_logging)
    shown = [library.is_progress_bar_enabled() for library in loggers]
    importing = logging.getLogger("transformers.utils.import_utils")
    importing.addFilter(_no_torchvision)
    for library in loggers:
        library.disable_progress_bar()
    try:
        yield
    finally:
        importing.removeFilter(_no_torchvision)
        for library, was_shown in zip(loggers, shown, strict=True):
            if was_shown:
                library.enable_progress_bar()


def _no_torchvision(record: logging.LogRecord) -> bool:
    return "requires torchvision" not in record.getMessage()


def first_line(error: BaseException) -> str:
    """What a library's error says first, without its closing stop."""
    return str(error).strip().partition("\n")[0].rstrip(".")
