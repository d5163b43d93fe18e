"""PEFT's adapter settings that change the picture: ``adapter_config.json``, or a file's metadata."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from imagegen_core.models.loras.tensor_names import NETWORKS
from imagegen_core.models.tensors import Header, quoted

METADATA = "lora_adapter_metadata"
"""The metadata key of a safetensors file under which diffusers writes the settings of each network."""
FILE = "adapter_config.json"
"""The file that PEFT writes next to its ``adapter_model.safetensors``."""

_DRAWN = ("LORA", "LOHA", "LOKR")
# Settings of training and loading, and settings that the tensors themselves show.
_HARMLESS = {
    *("auto_mapping", "base_model_name_or_path", "bias", "decompose_both", "decompose_factor", "exclude_modules"),
    *("fan_in_fan_out", "inference_mode", "init_weights", "layers_pattern", "layers_to_transform", "lora_bias"),
    *("lora_dropout", "megatron_core", "module_dropout", "modules_to_save", "peft_version", "qalora_group_size"),
    *("rank_dropout", "rank_dropout_scale", "revision", "runtime_config", "target_modules"),
    *("task_type", "use_effective_conv2d"),
}
_READ = {
    *("peft_type", "lora_alpha", "alpha", "alpha_pattern", "r", "rank_pattern"),
    *("use_dora", "use_rslora", "init_lora_weights"),
}
# Beginnings of `init_lora_weights` values for adapters whose base weights differ from the checkpoint's.
_OTHER_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")
_LITERAL = re.compile(r"\^?(?:[\w-]|\\?\.)+\$?")


class AdapterConfigError(ValueError):
    """The reason why an adapter's settings cannot be applied."""


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """The strength that a file's settings give its layers.

    Attributes:
        alpha: The numerator of each layer's scale; None if not set.
        alphas: Other alphas by the ends of modules' names.
        rank: The denominator if the matrices do not show it; None if not set.
        ranks: Other ranks by the ends of modules' names.
        is_rank_stabilized: Whether alpha is divided by the rank's square root (https://arxiv.org/abs/2312.03732).
        is_decomposed: Whether each layer has a DoRA magnitude.
    """

    alpha: float | None = None
    alphas: Mapping[str, float] = field(default_factory=dict)
    rank: float | None = None
    ranks: Mapping[str, float] = field(default_factory=dict)
    is_rank_stabilized: bool = False
    is_decomposed: bool = False

    def scale(self, module: str, rank: int | None) -> float:
        """Return the scale of a module's change; `rank` is its matrices' rank, or None for a full matrix."""
        alpha = _of_module(module, self.alphas, self.alpha)
        divisor = rank or _of_module(module, self.ranks, self.rank)
        if alpha is None or not divisor:
            return 1.0
        return alpha / (math.sqrt(divisor) if self.is_rank_stabilized else divisor)


def configs_of(header: Header, *, is_peft: bool) -> Mapping[str, AdapterConfig]:
    """Return the settings of each network's layers, from a file's metadata or PEFT's JSON file next to it.

    Args:
        header: The LoRA file's header.
        is_peft: Whether the file uses PEFT's own names, so that the JSON file applies.

    Raises:
        AdapterConfigError: A setting is malformed, or changes the picture in an unknown way.
    """
    beside = header.path.parent / FILE
    if METADATA in header.metadata:
        return _of_metadata(parse(header.metadata[METADATA], f"metadata {METADATA}"), f"metadata {METADATA}")
    if is_peft and beside.is_file():
        try:
            text = beside.read_text(encoding="utf-8")
        except OSError as error:
            raise AdapterConfigError(
                f"its {FILE} cannot be read ({error.strerror}); correct its permissions"
            ) from error
        except UnicodeDecodeError as error:
            raise AdapterConfigError(f"its {FILE} is not JSON ({error})") from error
        return dict.fromkeys(NETWORKS, read(parse(text, FILE), FILE))
    return dict.fromkeys(NETWORKS, AdapterConfig())


def _of_metadata(settings: Mapping[str, Any], name: str) -> Mapping[str, AdapterConfig]:
    # A pipeline prefixes each network's settings by its name. A network that is saved alone has no prefix.
    prefixed = {key for key in settings if key.partition(".")[0] in NETWORKS}
    if not prefixed:
        return dict.fromkeys(NETWORKS, read(settings, name))
    if strange := settings.keys() - prefixed:
        raise AdapterConfigError(f"its {name} sets {quoted(min(strange))}, which is not known here")
    return {network: read(of_network(settings, network), name) for network in NETWORKS}


def parse(text: str, name: str) -> Mapping[str, Any]:
    """Parse settings as JSON; error messages call them `name`.

    Raises:
        AdapterConfigError: They are no JSON object.
    """
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AdapterConfigError(f"its {name} is not JSON ({error})") from error
    if not isinstance(settings, dict):
        raise AdapterConfigError(f"its {name} is not a JSON object")
    return settings


def read(settings: Mapping[str, Any], name: str) -> AdapterConfig:
    """Interpret one network's settings; error messages call them `name`.

    Raises:
        AdapterConfigError: A setting is malformed, or changes the picture in an unknown way.
    """
    kind = settings.get("peft_type") or "LORA"
    if kind not in _DRAWN:
        raise AdapterConfigError(f"its {name} says peft_type {kind!r}, which is not drawn here")
    start = settings.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_OTHER_BASES):
        raise AdapterConfigError(
            f"its {name} says init_lora_weights {start!r}, which trains against other weights than the checkpoint's; "
            "convert it to a plain LoRA with PEFT first"
        )
    unknown = [key for key, value in settings.items() if value and key not in _HARMLESS | _READ]
    if unknown:
        raise AdapterConfigError(f"its {name} sets {unknown[0]!r}, which is not known here")
    return AdapterConfig(
        alpha=_number(settings.get("lora_alpha", settings.get("alpha")), name),
        alphas=_patterns(settings, "alpha_pattern", name),
        rank=_number(settings.get("r"), name),
        ranks=_patterns(settings, "rank_pattern", name),
        is_rank_stabilized=bool(settings.get("use_rslora")),
        is_decomposed=bool(settings.get("use_dora")),
    )


def of_network(settings: Mapping[str, Any], network: str) -> Mapping[str, Any]:
    """Select one network's settings from diffusers' settings for all: ``unet.lora_alpha`` and so on."""
    prefix = f"{network}."
    return {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)}


def _number(value: object, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise AdapterConfigError(f"its {name} has {value!r} for an alpha or a rank; expected a number")
    return float(value)


def _patterns(settings: Mapping[str, Any], key: str, name: str) -> dict[str, float]:
    patterns = settings.get(key) or {}
    if not isinstance(patterns, dict):
        raise AdapterConfigError(f"its {name} has a {key} that is not a JSON object")
    for pattern in patterns:
        if not _LITERAL.fullmatch(pattern):
            raise AdapterConfigError(
                f"its {name} has the {key} {pattern!r}, which is a regular expression; write modules' names"
            )
    return {pattern: value for pattern, given in patterns.items() if (value := _number(given, name)) is not None}


def _of_module(module: str, patterns: Mapping[str, float], default: float | None) -> float | None:
    return next((value for pattern, value in patterns.items() if _ends(module, pattern)), default)


def _ends(module: str, pattern: str) -> bool:
    """Return whether PEFT's pattern matches the module: by whole names, from the end of the module's path."""
    literal = pattern.removeprefix("^").removesuffix("$").replace("\\", "")
    return module == literal or (not pattern.startswith("^") and module.endswith(f".{literal}"))
