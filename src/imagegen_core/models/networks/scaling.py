"""The scales of 8-bit weights.

ComfyUI writes them as ``X.scale_weight`` or ``X.weight_scale`` next to ``X.weight``: one number, or one per row. The
weight is the stored value times its scale. ``scale_input`` and ``input_scale`` serve 8-bit multiplications, which are
not done here. ``scaled_fp8`` and ``comfy_quant`` mark files and layers that have scales.
"""

from __future__ import annotations

import re
from dataclasses import replace

from imagegen_core.models.networks.source import Layers, Source

_SCALE = re.compile(r"(.*?)(?:scale_weight|weight_scale)")
_UNUSED = re.compile(r"(?:.*\.)?(?:scale_input|input_scale|scaled_fp8|comfy_quant)")


def scaled(layers: Layers) -> dict[str, Source]:
    """Attach each scale's name to its weight; a scale without a weight stays as an unknown tensor."""
    weights = {name: source for name, source in layers.items() if not _UNUSED.fullmatch(name)}
    for name in [name for name in weights if _SCALE.fullmatch(name)]:
        weight = f"{name.removesuffix('scale_weight').removesuffix('weight_scale')}weight"
        if weight in weights:
            weights[weight] = replace(weights[weight], scale=weights.pop(name).name)
    return weights
