"""Loading single-file checkpoints, offline: weights from the file, what describes them from a folder of configs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imagegen_core.diffusion.building import building
from imagegen_core.diffusion.prediction import normalize_latents, scheduler_of_file
from imagegen_core.diffusion.tokenizers import find_tokenizer
from imagegen_core.errors import ModelLoadError
from imagegen_core.models.headers import read_header
from imagegen_core.models.pickled import OPAQUE
from imagegen_core.settings import PredictionName

_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
_PAD_TOKENS = {"tokenizer": "<|endoftext|>", "tokenizer_2": "!"}

State = Mapping[str, Tensor]


def load_single_file(
    path: Path, dtype: torch.dtype, configs: Path, base: Path | None, prediction: PredictionName | None = None
) -> dict[str, Any]:
    """The components of a pipeline, from a ``.safetensors`` or ``.ckpt`` file.

    Args:
        path: The file, a whole checkpoint or a UNet alone.
        dtype: What the weights are loaded as.
        configs: A diffusers-format folder of configs, without weights, for the file's family.
        base: A diffusers-format folder that supplies what the file lacks, and its own configs instead of `configs`.
        prediction: What the network predicts; None leaves it to the file.

    Raises:
        ModelLoadError: The file lacks a component that `base` does not supply, or does not match the configs.
    """
    family, configs = configs, base or configs
    index = json.loads((configs / "model_index.json").read_text(encoding="utf-8"))
    state = read_weights(path)
    components: dict[str, Any] = {}
    for name, kind in index.items():
        if not isinstance(kind, list) or kind[0] not in ("diffusers", "transformers"):
            continue
        library, class_name = kind
        component_class = getattr(import_module(library), class_name)
        if name == "scheduler":
            components[name] = scheduler_of_file(path, state, family, base, prediction)
        elif name in _PAD_TOKENS:
            components[name] = find_tokenizer(base, name, _PAD_TOKENS[name])
        elif name in ("unet", "vae", "text_encoder", "text_encoder_2"):
            components[name] = _component(component_class, name, state, configs, base, path, dtype)
    normalize_latents(path, components["vae"], state)
    return components


def read_vae(path: Path, dtype: torch.dtype, config: Path) -> Any:
    """An autoencoder from a file in either naming, or from a diffusers-format folder.

    Args:
        path: The file or folder.
        dtype: What the weights are loaded as.
        config: The folder whose ``config.json`` describes a file's autoencoder.

    Raises:
        ModelLoadError: The file is no autoencoder of that family.
    """
    from diffusers import AutoencoderKL

    if path.is_dir():
        return AutoencoderKL.from_pretrained(path, dtype=dtype, local_files_only=True)
    return _build(AutoencoderKL, config, lambda vae: _vae_state(read_weights(path), vae), path, dtype)


def read_weights(path: Path) -> State:
    """The tensors of a weights file, mapped into memory rather than read; of a pickle nothing else is let in.

    Raises:
        ModelLoadError: A pickle holds more than weights.
    """
    if read_header(path).format == "safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    with torch.serialization.safe_globals([(_Inert, name) for name in OPAQUE]):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # files of torch before 1.6 cannot be mapped
            content = torch.load(path, map_location="cpu", weights_only=True)
    content = content.get("state_dict", content)
    return {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}


class _Inert:
    """Stands for what a training run noted beside its weights: takes anything, does nothing."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


def _component(
    component_class: Any, name: str, state: State, configs: Path, base: Path | None, path: Path, dtype: torch.dtype
) -> Any:
    converted = _CONVERSIONS[name]
    if any(key.startswith(_MARKS[name]) for key in state) or (name == "unet" and not _has_prefixes(state)):
        return _build(component_class, configs / name, lambda module: converted(state, module), path, dtype)
    if base is not None and any((base / name).glob("*.safetensors")):
        return component_class.from_pretrained(base / name, dtype=dtype, local_files_only=True)
    raise ModelLoadError(
        f"{path} holds no {name}: set BASE_MODEL to a diffusers-format folder of its family, which supplies it"
        + (", or VAE_PATH to a VAE" if name == "vae" else "")
    )


def _build(component_class: Any, config: Path, convert: Callable[[Any], State], path: Path, dtype: torch.dtype) -> Any:
    """A module around the file's own tensors; nothing is filled in at random."""
    from accelerate import init_empty_weights

    settings = json.loads((config / "config.json").read_text(encoding="utf-8"))
    with building(), init_empty_weights(include_buffers=False), _skipping_initialization():
        if hasattr(component_class, "from_config"):
            module = component_class.from_config(settings)
        else:
            module = component_class(component_class.config_class.from_dict(settings))
    try:
        state = {name: tensor.to(dtype) for name, tensor in convert(module).items()}
        missing, _ = module.load_state_dict(state, strict=False, assign=True)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ModelLoadError(_mismatch(path, config)) from error
    if missing:
        raise ModelLoadError(_mismatch(path, config))
    return module.eval()


def _skipping_initialization() -> AbstractContextManager[None]:
    """Draw no random weights, not even empty ones: it takes half of the time."""
    try:
        from transformers.initialization import no_init_weights
    except ImportError:  # before transformers 5
        from transformers.modeling_utils import no_init_weights
    return no_init_weights()  # type: ignore[no-any-return]


def _mismatch(path: Path, config: Path) -> str:
    return (
        f"{path} does not match {config / 'config.json'}: it is of another architecture, or incomplete; set BASE_MODEL "
        "to a diffusers-format folder with its own configs"
    )


def _has_prefixes(state: State) -> bool:
    return any(key.startswith((_UNET, _VAE, "cond_stage_model.", "conditioner.")) for key in state)


def _unet_state(state: State, module: Any) -> State:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    if any(key.startswith("down_blocks.") for key in state):
        return state
    if not any(key.startswith(_UNET) for key in state):
        state = {f"{_UNET}{key}": tensor for key, tensor in state.items()}
    plain = {key: tensor for key, tensor in state.items() if key.startswith(_UNET)}
    return convert_ldm_unet_checkpoint(plain, config=dict(module.config))  # type: ignore[no-any-return]


def _vae_state(state: State, module: Any) -> State:
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    if any(key.startswith("decoder.up_blocks.") for key in state):
        return state
    plain = {
        key.removeprefix(_VAE): t
        for key, t in state.items()
        if key.startswith((_VAE, "encoder.", "decoder.", "quant_conv.", "post_quant_conv."))
    }
    return convert_ldm_vae_checkpoint(plain, config=dict(module.config))  # type: ignore[no-any-return]


def _text_state(state: State, module: Any) -> State:
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint

    return _fit_text_model(convert_ldm_clip_checkpoint(state), module)


def _second_text_state(state: State, module: Any) -> State:
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    prefix = "conditioner.embedders.1.model."
    plain = {key: tensor for key, tensor in state.items() if key.startswith(prefix)}
    return _fit_text_model(convert_open_clip_checkpoint(module, plain, prefix=prefix), module)


def _fit_text_model(state: State, module: Any) -> State:
    """Name the tensors as the installed transformers does: each encoder nests its text model, since 5 only some do."""
    if hasattr(module, "text_model"):
        return state
    return {key.removeprefix("text_model."): tensor for key, tensor in state.items()}


_CONVERSIONS = {
    "unet": _unet_state,
    "vae": _vae_state,
    "text_encoder": _text_state,
    "text_encoder_2": _second_text_state,
}
_MARKS: dict[str, tuple[str, ...]] = {
    "unet": (_UNET,),
    "vae": (_VAE,),
    "text_encoder": ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer."),
    "text_encoder_2": ("conditioner.embedders.1.model.",),
}
