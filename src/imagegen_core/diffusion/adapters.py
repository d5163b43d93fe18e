"""Styles inside the networks: LoRAs that stay loaded, and a switch that says which of them are on.

With all of them off, each layer computes what it computed before a LoRA was ever loaded, to the bit.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imagegen_core.diffusion.exactness import make_rowwise
from imagegen_core.diffusion.libraries import first_line, quiet
from imagegen_core.diffusion.lora_files import read_lora
from imagegen_core.errors import InvalidRequestError, ModelNotFoundError
from imagegen_core.models.style_catalog import CatalogedStyle
from imagegen_core.styles import LoraUse

_NETWORKS = ("unet", "text_encoder", "text_encoder_2")
_DOWN = ".lora_A.weight"
_KEPT = 16  # LoRAs that stay in memory; the one that was used longest ago makes room


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA at one strength.

    Attributes:
        name: What it is called inside the networks.
        title: What errors call it.
        path: Its file.
        weight: The factor it is added with.
    """

    name: str
    title: str
    path: Path
    weight: float

    @classmethod
    def of_style(cls, style: CatalogedStyle, level: int) -> Adapter:
        """The style at `level`, counted from 1; above the style's levels means the last of them."""
        levels = style.style.levels
        weight = float(levels[min(level, len(levels)) - 1])
        return cls(style.style.adapter_name, f"style {style.style.id!r}", style.path, weight)

    @classmethod
    def of_lora(cls, lora: LoraUse) -> Adapter:
        """A mode's LoRA, called by its file as that is now: what is put in its place gets a name of its own.

        Raises:
            ModelNotFoundError: The file is not there.
        """
        try:
            found = lora.path.stat()
        except OSError as error:
            raise ModelNotFoundError(
                f"There is no LoRA {lora.path}, which the mode draws with: correct its path"
            ) from error
        state = f"{lora.path.absolute()} {found.st_size} {found.st_mtime_ns}"
        name = f"lora_{hashlib.sha256(state.encode()).hexdigest()[:16]}"
        return cls(name, f"LoRA {lora.adapter_name!r}", lora.path, lora.strength)

    def __str__(self) -> str:
        return f"{self.title} {self.weight!r}"


class Adapters:
    """The LoRAs of one pipeline, those that are on and those that stay loaded.

    Attributes:
        active: Those that are on, in the order they are added in; None where turning some on failed half-way.
    """

    def __init__(self, pipe: Any) -> None:
        """Nothing is loaded yet.

        Args:
            pipe: A diffusers pipeline whose LoRAs nobody else changes.
        """
        self._pipe = pipe
        self._loaded: OrderedDict[str, None] = OrderedDict()
        self._layers: list[Any] = []
        self.active: tuple[Adapter, ...] | None = ()

    def has(self, adapter: Adapter) -> bool:
        """Whether it is loaded already, at whatever strength."""
        return adapter.name in self._loaded

    def use(self, wanted: tuple[Adapter, ...]) -> bool:
        """Have these on and no others, loading those whose first use this is.

        Returns:
            Whether any were loaded or let go of.

        Raises:
            InvalidRequestError: A LoRA cannot be read, or does not fit the network.
        """
        if wanted == self.active:
            return False
        before = {*self._loaded}
        for adapter in wanted:
            self._load(adapter)
        for layer in self._layers:
            here = [adapter for adapter in wanted if adapter.name in layer.scaling]
            if here:
                layer.set_adapter([adapter.name for adapter in here], inference_mode=True)
                for adapter in here:
                    layer.set_scale(adapter.name, adapter.weight)
                layer._disable_adapters = False  # noqa: SLF001 - enable_adapters would ask for gradients again
            else:
                layer.enable_adapters(False)
        self.active = wanted
        self._make_room({adapter.name for adapter in wanted})
        return {*self._loaded} != before

    @torch.inference_mode(False)  # in which requests are drawn, and whose tensors cannot be changed outside of it
    def _load(self, adapter: Adapter) -> None:
        name = adapter.name
        if name in self._loaded:
            self._loaded.move_to_end(name)
            return
        try:
            with quiet():
                lora = read_lora(adapter.path, self._pipe)
            parts = {network: _part(lora, network) for network in _NETWORKS}
            for network, part in parts.items():
                _check_fit(getattr(self._pipe, network, None), part)
        except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
            raise InvalidRequestError(
                f"The {adapter.title} cannot be used: {adapter.path} does not fit this checkpoint "
                f"({first_line(error)}); take a LoRA made for its family"
            ) from error
        for network, part in parts.items():
            if part:
                _inject(getattr(self._pipe, network), part, name)
        self.active = None  # an adapter is on when it comes in
        self._loaded[name] = None
        self._layers = self._tuned_layers()

    def _make_room(self, wanted: set[str]) -> None:
        for name in [name for name in self._loaded if name not in wanted][: max(len(self._loaded) - _KEPT, 0)]:
            del self._loaded[name]
            self._unload(name)

    def _unload(self, name: str) -> None:
        for layer in self._layers:
            if name in layer.scaling:
                layer.delete_adapter(name)

    def _tuned_layers(self) -> list[Any]:
        from peft.tuners.tuners_utils import BaseTunerLayer

        networks = (getattr(self._pipe, name, None) for name in _NETWORKS)
        modules = (module for network in networks if network is not None for module in network.modules())
        return [module for module in modules if isinstance(module, BaseTunerLayer)]


def _part(lora: Mapping[str, Tensor], network: str) -> dict[str, Tensor]:
    prefix = f"{network}."
    return {name.removeprefix(prefix): tensor for name, tensor in lora.items() if name.startswith(prefix)}


def _check_fit(network: Any, part: Mapping[str, Tensor]) -> None:
    """Whether every layer that a LoRA changes is there, and as wide as it takes it to be."""
    modules = {} if network is None else dict(network.named_modules())
    for name, down in part.items():
        if not name.endswith(_DOWN):
            continue
        module = name.removesuffix(_DOWN)
        found = modules.get(module)
        weight = getattr(getattr(found, "base_layer", found), "weight", None)
        if weight is None:
            raise ValueError(f"it changes a layer {module}, which is not there")
        if weight.shape[1] != down.shape[1]:
            raise ValueError(f"it takes layer {module} to be {down.shape[1]} wide, and it is {weight.shape[1]}")


def _inject(network: Any, part: Mapping[str, Tensor], name: str) -> None:
    """Put a LoRA into a network as the adapter `name`, beside those that are there already."""
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    ranks = {key.removesuffix(_DOWN): down.shape[0] for key, down in part.items() if key.endswith(_DOWN)}
    exact = {f"^{re.escape(module)}$": rank for module, rank in ranks.items()}
    config = LoraConfig(target_modules=list(ranks), rank_pattern=exact, alpha_pattern=exact)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
        inject_adapter_in_model(config, network, adapter_name=name)
    set_peft_model_state_dict(network, dict(part), adapter_name=name)
    for module in ranks:
        network.get_submodule(module).to(network.device, network.dtype)
    make_rowwise(network)
