"""Read the noise settings in the ``.yaml`` next to a single-file checkpoint: its training configuration.

Its two forms: https://github.com/CompVis/stable-diffusion/blob/main/configs and
https://github.com/Stability-AI/generative-models/tree/main/configs/inference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagegen_core.errors import ModelLoadError
from imagegen_core.models.tensors import quoted
from imagegen_core.settings import PredictionName

SET_IT = "set IMAGEGEN_PREDICTION, or prediction in its mode, to what its author says"

_LARGEST = 1_000_000  # bytes; the published files have a few thousand
_PARAMETERIZATIONS: Mapping[str, PredictionName] = {"eps": "epsilon", "v": "v", "x0": "sample"}
_SCALINGS: Mapping[str, PredictionName] = {
    "EpsScaling": "epsilon",
    "VScaling": "v",
    "EDMScaling": "edm",
    "VScalingWithEDMcNoise": "edm-v",
}
_NOISE = {"linear_start": "beta_start", "linear_end": "beta_end", "timesteps": "num_train_timesteps"}


@dataclass(frozen=True, slots=True)
class SaidOfNoise:
    """The stated prediction type and noise schedule of a checkpoint.

    Attributes:
        prediction: The prediction type of the network; None if not stated.
        noise: Values for a diffusers scheduler's configuration: ``beta_start``, ``beta_end``, ``num_train_timesteps``.
    """

    prediction: PredictionName | None = None
    noise: Mapping[str, float] = field(default_factory=dict)


def read_ldm_config(checkpoint: Path) -> SaidOfNoise:
    """Read the ``.yaml`` file with the checkpoint's name; return an empty result without one.

    Raises:
        ModelLoadError: The file cannot be read, or has a value that is not supported here.
    """
    path = next((file for suffix in (".yaml", ".yml") if (file := checkpoint.with_suffix(suffix)).is_file()), None)
    if path is None:
        return SaidOfNoise()
    model = _within(_parse(path), "model")
    parameters = _within(model, "params")
    target = _within(_within(_within(parameters, "denoiser_config"), "params"), "scaling_config").get("target")
    scaling = str(target).rpartition(".")[2] if target is not None else None
    prediction = _known(path, "parameterization", parameters.get("parameterization"), _PARAMETERIZATIONS)
    prediction = prediction or _known(path, "the denoiser's scaling", scaling, _SCALINGS)
    # LDM's "linear" is linear in the square root: diffusers' scaled_linear.
    _known(path, "beta_schedule", parameters.get("beta_schedule"), {"linear": "epsilon"})
    noise = {ours: _number(path, key, parameters[key]) for key, ours in _NOISE.items() if key in parameters}
    return SaidOfNoise(prediction, noise)


def _parse(path: Path) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ModelLoadError(
            f"{path}, which describes the checkpoint beside it, cannot be read ({error}): pip install pyyaml, "
            f"or {SET_IT}"
        ) from error
    try:
        if path.stat().st_size > _LARGEST:
            raise ModelLoadError(
                f"{path} is not a checkpoint's configuration: it has more than {_LARGEST} bytes; move it"
            )
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelLoadError(f"Cannot read {path} ({error.strerror}): correct its permissions") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        said = getattr(error, "problem", None) or type(error).__name__
        raise ModelLoadError(
            f"{path}, which describes the checkpoint beside it, is not valid YAML ({said}): mend or move it"
        ) from error


def _within(table: Any, key: str) -> Mapping[str, Any]:
    value = table.get(key) if isinstance(table, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _known(path: Path, key: str, value: Any, known: Mapping[str, PredictionName]) -> PredictionName | None:
    if value is None:
        return None
    if value not in known:
        raise ModelLoadError(
            f"Cannot use {path}: {key} is {quoted(value)}; expected one of {', '.join(known)}. Or {SET_IT}"
        )
    return known[value]


def _number(path: Path, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ModelLoadError(f"Cannot use {path}: {key} is {quoted(value)}; expected a number above 0")
    return value
