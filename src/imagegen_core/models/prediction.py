"""The prediction type of a single-file checkpoint, from marker tensors, metadata or its ``.yaml``."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace
from pathlib import Path

from imagegen_core.errors import ModelLoadError
from imagegen_core.models.folders import read_json
from imagegen_core.models.headers import read_header
from imagegen_core.models.ldm_config import SET_IT, SaidOfNoise, read_ldm_config
from imagegen_core.models.tensors import quoted
from imagegen_core.samplers import OwnScheduler
from imagegen_core.settings import PredictionName

__all__ = ["SET_IT", "SaidOfNoise", "own_scheduler", "said_of_noise"]

_SCHEDULER = "scheduler/scheduler_config.json"
_EDM = ("edm", "edm-v")
# https://github.com/Stability-AI/ModelSpec; ComfyUI saves the same value under modelspec.predict_key.
_MODELSPEC = ("modelspec.prediction_type", "modelspec.predict_key")
_NAMES: Mapping[str, PredictionName] = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v",
    "v_prediction": "v",
    "v-prediction": "v",
    "sample": "sample",
    "x0": "sample",
}


def own_scheduler(path: Path, setting: PredictionName | None) -> OwnScheduler:
    """Return a checkpoint's own scheduler, from its files.

    Args:
        path: A single file or a diffusers-format folder.
        setting: `Settings.prediction`, which overrides the files.

    Raises:
        ModelLoadError: The files are missing, damaged or contradictory.
    """
    if path.is_dir():
        scheduler = OwnScheduler.of(_scheduler_class(path), read_json(path, _SCHEDULER))
        return scheduler if setting is None else replace(scheduler, is_edm=setting in _EDM)
    header = read_header(path)
    said = SaidOfNoise() if setting else said_of_noise(path, header.tensors, header.metadata)
    return replace(OwnScheduler.of("", said.noise), is_edm=(setting or said.prediction) in _EDM)


def _scheduler_class(folder: Path) -> str:
    kind = read_json(folder, "model_index.json").get("scheduler")
    return str(kind[-1]) if isinstance(kind, list) and kind else ""


def said_of_noise(path: Path, names: Container[str], metadata: Mapping[str, str]) -> SaidOfNoise:
    """Return a file's prediction type and noise schedule: from marks, else metadata, else the ``.yaml`` next to it.

    Args:
        path: The file.
        names: The names of its tensors.
        metadata: Its metadata.

    Raises:
        ModelLoadError: The values are contradictory or not supported here.
    """
    beside = read_ldm_config(path)
    prediction = _marked(path, names) or _described(path, metadata) or beside.prediction
    return SaidOfNoise(prediction, beside.noise)


def _marked(path: Path, names: Container[str]) -> PredictionName | None:
    """Return the prediction type by marker tensors, as ComfyUI writes and reads them; None without any.

    Args:
        path: The file, for messages.
        names: The names of its tensors.

    Raises:
        ModelLoadError: The marks contradict each other.
    """
    edm = [name for name in ("edm_mean", "edm_std") if name in names]
    if len(edm) == 1:
        raise ModelLoadError(
            f"Cannot load the checkpoint {path}: it has only {edm[0]} of edm_mean and edm_std; download it again"
        )
    if edm:
        return "edm"
    if "edm_vpred.sigma_max" in names:
        return "edm-v"
    return _with_zero_snr(path, "v" if "v_pred" in names else None, zero_snr="ztsnr" in names, said="the key ztsnr")


def _described(path: Path, metadata: Mapping[str, str]) -> PredictionName | None:
    """Return the prediction type in a file's metadata, as ModelSpec and kohya's scripts write it; None without any.

    Args:
        path: The file, for messages.
        metadata: Its metadata.

    Raises:
        ModelLoadError: The metadata is contradictory, or its prediction type is not supported here.
    """
    stated: dict[str, PredictionName] = {}
    for key in _MODELSPEC:
        if value := metadata.get(key, "").strip():
            if value.lower() not in _NAMES:
                raise ModelLoadError(
                    f"Cannot load the checkpoint {path}: its metadata {key} is {quoted(value)}; expected one of "
                    f"{', '.join(_NAMES)}. If that is a mistake, {SET_IT}"
                )
            stated[key] = _NAMES[value.lower()]
    if _is_true(metadata.get("ss_v_parameterization")):
        stated["ss_v_parameterization"] = "v"
    if len(set(stated.values())) > 1:
        raise ModelLoadError(
            f"Cannot load the checkpoint {path}: its metadata {' and '.join(stated)} contradict each other; {SET_IT}"
        )
    prediction = next(iter(stated.values()), None)
    zero_snr = _is_true(metadata.get("ss_zero_terminal_snr"))
    return _with_zero_snr(path, prediction, zero_snr=zero_snr, said="the metadata ss_zero_terminal_snr")


def _with_zero_snr(
    path: Path, prediction: PredictionName | None, *, zero_snr: bool, said: str
) -> PredictionName | None:
    if not zero_snr:
        return prediction
    if prediction != "v":
        raise ModelLoadError(
            f"Cannot load the checkpoint {path}: {said} says that it starts from pure noise, where only a network that "
            f"predicts v can be drawn, and nothing says that it does; {SET_IT}"
        )
    return "v-zsnr"


def _is_true(value: str | None) -> bool:
    return (value or "").strip().lower() in ("true", "1")
