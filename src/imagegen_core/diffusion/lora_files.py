"""LoRA files in the namings of kohya-ss, diffusers (old and new) and PEFT, read into one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

_PEFT_PREFIX = "base_model.model."
_NETWORKS = ("unet", "text_encoder", "text_encoder_2")
_DOWN = (
    ".lora_down.weight",
    ".lora_A.weight",
    ".lora.down.weight",
    "_lora.down.weight",
    ".lora_linear_layer.down.weight",
)

# diffusers' own suffixes, from the oldest on, to the module they change and to which of its two matrices.
_SUFFIX = re.compile(
    r"(?:\.processor)?(?:\.to_(?P<old>q|k|v|out)_lora|\.lora_linear_layer|\.lora)[._](?P<matrix>down|up)\.weight$"
)
_TEXT_PROJECTION = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "out_proj"}
_UNET_PROJECTION = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"}


def read_lora(path: Path, pipe: Any) -> dict[str, Tensor]:
    """Read a LoRA under the names ``NETWORK.MODULE.lora_A.weight`` and ``.lora_B.weight``, of the pipeline's modules.

    The scale of alpha over rank is multiplied into the B matrices.

    Args:
        path: A safetensors file.
        pipe: The pipeline it is read for; kohya's names of SDXL's blocks depend on its UNet.

    Raises:
        ValueError: The file has layers that its naming does not explain.
    """
    state = load_file(path)
    asked = sum(name.endswith(_DOWN) for name in state)
    if any(name.startswith(_PEFT_PREFIX) for name in state):
        state = {_without_peft(name): tensor for name, tensor in state.items()}
    known, alphas = pipe.lora_state_dict(state, unet_config=pipe.unet.config)
    renamed = {_renamed(name, pipe): tensor for name, tensor in known.items() if not name.endswith("alpha")}
    scales = {_renamed(name.removesuffix(".alpha"), pipe): float(alpha) for name, alpha in (alphas or {}).items()}
    found = sum(name.endswith(".lora_A.weight") for name in renamed)
    if found != asked:
        raise ValueError(f"of the {asked} layers that it changes, {found} have names known here")
    return {name: _scaled(name, tensor, renamed, scales) for name, tensor in renamed.items()}


def _without_peft(name: str) -> str:
    bare = name.removeprefix(_PEFT_PREFIX)
    return bare if bare.startswith(tuple(f"{network}." for network in _NETWORKS)) else f"unet.{bare}"


def _renamed(name: str, pipe: Any) -> str:
    network, _, rest = name.partition(".")
    projections = _UNET_PROJECTION if network == "unet" else _TEXT_PROJECTION
    if old := _SUFFIX.search(rest):
        module = rest[: old.start()] + (f".{projections[old['old']]}" if old["old"] else "")
        rest = f"{module}.lora_{'A' if old['matrix'] == 'down' else 'B'}.weight"
    if network != "unet":
        # transformers before 5 nest the text model inside each encoder, those after only inside some.
        bare = rest.removeprefix("text_model.")
        rest = f"text_model.{bare}" if hasattr(getattr(pipe, network, None), "text_model") else bare
    return f"{network}.{rest}"


def _scaled(name: str, tensor: Tensor, state: Mapping[str, Tensor], alphas: Mapping[str, float]) -> Tensor:
    """A B matrix with its layer's scale in it, where the file has one."""
    down = name.replace(".lora_B.", ".lora_A.")
    if down == name or down not in alphas:
        return tensor
    return tensor * (alphas[down] / state[down].shape[0])
