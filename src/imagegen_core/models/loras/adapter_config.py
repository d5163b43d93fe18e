"""PEFT's settings of an adapter, of those that change the picture: ``adapter_config.json``, or a file's metadata."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

METADATA = "lora_adapter_metadata"
"""The key of a safetensors file's metadata under which diffusers writes the settings of each network."""
FILE = "adapter_config.json"
"""What PEFT writes beside its ``adapter_model.safetensors``."""

_DRAWN = ("LORA", "LOHA", "LOKR")
# Settings of training and loading, and those that the tensors themselves show.
_HARMLESS = {
    *("auto_mapping", "base_model_name_or_path", "bias", "decompose_both", "decompose_factor", "exclude_modules"),
    *("fan_in_fan_out", "inference_mode", "init_weights", "layers_pattern", "layers_to_transform", "lora_bias"),
    *("lora_dropout", "megatron_core", "module_dropout", "modules_to_save", "peft_version", "qalora_group_size", "r"),
    *("rank_dropout", "rank_dropout_scale", "rank_pattern", "revision", "runtime_config", "target_modules"),
    *("task_type", "use_effective_conv2d"),
}
_READ = {"peft_type", "lora_alpha", "alpha", "alpha_pattern", "use_dora", "use_rslora", "init_lora_weights"}
# Beginnings of `init_lora_weights` that train against other weights than the checkpoint's.
_OTHER_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")
_LITERAL = re.compile(r"\^?(?:[\w-]|\\?\.)+\$?")


class AdapterConfigError(ValueError):
    """Why an adapter's settings cannot be heeded."""


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """The strength that a file's settings give its layers.

    Attributes:
        alpha: The numerator of each layer's scale; None where the settings name none.
        patterns: Other alphas by the ends of modules' names.
        is_rank_stabilized: Whether alpha is divided by the rank's square root (https://arxiv.org/abs/2312.03732).
        is_decomposed: Whether each layer has a DoRA magnitude.
    """

    alpha: float | None = None
    patterns: Mapping[str, float] = field(default_factory=dict)
    is_rank_stabilized: bool = False
    is_decomposed: bool = False

    def scale(self, module: str, rank: int) -> float:
        """The scale of a module's change, whose matrices are of rank `rank`."""
        alpha = next((value for end, value in self.patterns.items() if _ends(module, end)), self.alpha)
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.is_rank_stabilized else rank)


def parse(text: str, name: str) -> Mapping[str, Any]:
    """Read settings as JSON; `name` is what errors call them.

    Raises:
        AdapterConfigError: They are no JSON object.
    """
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AdapterConfigError(f"its {name} is no JSON ({error})") from error
    if not isinstance(settings, dict):
        raise AdapterConfigError(f"its {name} is no JSON object")
    return settings


def read(settings: Mapping[str, Any], name: str) -> AdapterConfig:
    """Understand one network's settings; `name` is what errors call them.

    Raises:
        AdapterConfigError: A setting is malformed, or changes the picture in a way that is not known here.
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
    patterns = settings.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise AdapterConfigError(f"its {name} has an alpha_pattern that is no JSON object")
    for pattern in patterns:
        if not _LITERAL.fullmatch(pattern):
            raise AdapterConfigError(
                f"its {name} has the alpha_pattern {pattern!r}, which is a regular expression; write modules' names"
            )
    alpha = settings.get("lora_alpha", settings.get("alpha"))
    return AdapterConfig(
        alpha=None if alpha is None else _number(alpha, name),
        patterns={pattern: _number(value, name) for pattern, value in patterns.items()},
        is_rank_stabilized=bool(settings.get("use_rslora")),
        is_decomposed=bool(settings.get("use_dora")),
    )


def of_network(settings: Mapping[str, Any], network: str) -> Mapping[str, Any]:
    """One network's settings out of those that diffusers writes for all: ``unet.lora_alpha`` and so on."""
    prefix = f"{network}."
    return {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)}


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise AdapterConfigError(f"its {name} has an alpha of {value!r}, which is no number")
    return float(value)


def _ends(module: str, pattern: str) -> bool:
    """Whether PEFT's pattern means the module: a pattern matches whole names of the module's path, from the end."""
    literal = pattern.removeprefix("^").removesuffix("$").replace("\\", "")
    return module == literal or (not pattern.startswith("^") and module.endswith(f".{literal}"))
